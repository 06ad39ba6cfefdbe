"""What trained weights and stored predictions depend on, as the keys in the names of their folders (``folders``)."""

from __future__ import annotations

import hashlib
import json
import pkgutil
from collections.abc import Iterable, Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

BASE_VERSION = 2
"""Raise it when a change of the code changes what a base trained by the same configuration becomes."""

# What a base depends on; detection settings that only act at test time and machine settings are left out.
BASE_KEYS = (
    "seed",
    "data.source",
    "data.train_transform",
    "data.batch_size",
    "data.max_train_images",
    "backbone",
    "share",
    "thing",
    "stuff",
    "exchange",
    "schedule.reference_batch",
    "schedule.base",
    "schedule.loss_weights",
    "trainer.precision",
    "trainer.gradient_clip_val",
    "trainer.gradient_clip_algorithm",
    "trainer.limit_train_batches",
    "trainer.sync_batchnorm",
    "channels_last",
    "joint",
    "compile",
)
# Settings younger than the oldest bases: they count where they are not at their default, so that old keys stay valid.
YOUNGER_KEYS = {
    "compile": False,
    "trainer.gradient_clip_algorithm": "norm",
    "trainer.limit_train_batches": 1.0,
    "trainer.sync_batchnorm": False,
    "data.source.match": "share",
    "exchange.inlay": "box",
    "exchange.boxes": "fixed",
    "exchange.mask_norm": None,
    "thing.mask_norm": None,
    "stuff.predictor_convs": 0,
    "backbone.fpn_norm": None,
    "backbone.deformable_stages": 0,
    "occlusion.pair_mean": "proposals",
    "occlusion.pool": "average",
}
# The same for settings that other orders have had from the beginning, by ``occlusion._target_``.
YOUNGER_KEYS_OF = {"panoptic_occ.occlusion.refine.SoftOcclusion": {"occlusion.gt_rule": "majority"}}
TEST_ONLY = (
    "thing.score_thr",
    "thing.nms_thr",
    "thing.class_agnostic_nms",
    "thing.max_detections",
    "thing.rpn_test",
    "exchange.inlay_thr",
)
PLACES = ("data.source.root", "data.source.cache_dir", "data.source.processes")
# What stored predictions depend on, beside their base.
PREDICTION_KEYS = (*TEST_ONLY, "tta", "data.eval_transform", "data.max_eval_images")
# What the second stage depends on, beside its base.
STAGE_KEYS = ("occlusion", "schedule.occlusion")


def base_key(cfg: DictConfig) -> str:
    """Ten hex digits over everything that the base depends on."""
    keys = (*BASE_KEYS, "occlusion") if cfg.joint else BASE_KEYS
    return _digest({"version": BASE_VERSION, **_subset(cfg, keys)})


def stage_key(cfg: DictConfig) -> str:
    """Ten hex digits over everything that the trained occlusion module depends on (not its ``test_only`` settings)."""
    parts = _subset(cfg, STAGE_KEYS)
    method = pkgutil.resolve_name(cfg.occlusion._target_)
    for key in method.test_only:
        parts["occlusion"].pop(key, None)
    return _digest({"base": base_key(cfg), **parts})


def prediction_settings(cfg: DictConfig) -> dict[str, Any]:
    """Everything that detections and stuff of a split depend on, as far as evaluation settings go, and their base."""
    settings = {key: OmegaConf.select(cfg, key) for key in PREDICTION_KEYS}
    plain = OmegaConf.to_container(OmegaConf.create(settings), resolve=True)
    assert isinstance(plain, dict)
    return {"base": base_key(cfg), **flat(plain)}


def prediction_key(cfg: DictConfig) -> str:
    """Ten hex digits over ``prediction_settings``."""
    return _digest(prediction_settings(cfg))


def changes(before: DictConfig, after: DictConfig, keys: Iterable[str]) -> str:
    """Which settings below ``keys`` differ, as ``key: old -> new``, the first few of them; empty when none does."""
    old, new = (flat(_subset(config, keys)) for config in (before, after))
    differing = [k for k in sorted(old.keys() | new.keys()) if old.get(k) != new.get(k)]
    return "; ".join(f"{key}: {old.get(key)} -> {new.get(key)}" for key in differing[:5])


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted key."""
    if not isinstance(value, dict):
        return {prefix: value}
    return {k: v for key, item in value.items() for k, v in flat(item, f"{prefix}.{key}" if prefix else key).items()}


def _subset(cfg: DictConfig, keys: Iterable[str]) -> dict[str, Any]:
    left_out = (*TEST_ONLY, *PLACES)
    chosen = OmegaConf.create({})
    for key in keys:
        value = OmegaConf.select(cfg, key)
        OmegaConf.update(chosen, key, value, force_add=True)
    plain = OmegaConf.to_container(chosen, resolve=True)
    assert isinstance(plain, dict)
    for key in left_out:
        _remove(plain, key)
    younger = YOUNGER_KEYS_OF.get(plain.get("occlusion", {}).get("_target_"), {})
    for key, default in (YOUNGER_KEYS | younger).items():
        _remove(plain, key, where=(None, default))
    return {str(k): v for k, v in plain.items()}


def _remove(tree: Mapping[Any, Any], dotted: str, where: tuple[Any, ...] | None = None) -> None:
    """Takes a setting out of ``tree`` if it is there, and if its value is one of ``where``."""
    *parents, last = dotted.split(".")
    node: Any = tree
    for parent in parents:
        node = node.get(parent, {}) if isinstance(node, dict) else {}
    if isinstance(node, dict) and (where is None or node.get(last) in where):
        node.pop(last, None)


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:10]
