"""The run folder: where a run lives, what it remembers, and whether it is finished.

A folder is a function of the command, so that the same command finds its own work again:

    runs/<data>/base_<key>/                   one base, shared by all methods; <key> hashes all that it depends on
        base.safetensors  config.yaml  environment.json  categories.json  logs/   (checkpoints/ while training)
        predictions_<key>/                    stored predictions of the validation split, see ``store``
        <occlusion>_<key>/                    one occlusion module on that base, shared by all runs that use it
            occlusion.safetensors  config.yaml  environment.json  categories.json  logs/   (checkpoints/ likewise)
    runs/<data>/<method>_<backbone>_s<seed>/  one run; other overrides are appended to the name
        config.yaml  environment.json  categories.json
        metrics.json  metrics.csv  pq.json  pq.txt  pictures.png
"""

from __future__ import annotations

import hashlib
import json
import logging
import pkgutil
import re
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from panoptic_occ.categories import Categories
from panoptic_occ.config import compose, users_conf
from panoptic_occ.environment import environment
from panoptic_occ.errors import CheckpointError, ConfigError
from panoptic_occ.files import read_json, write_json, write_text
from panoptic_occ.instantiate import check_targets

log = logging.getLogger(__name__)

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
    "channels_last",
    "joint",
    "compile",
)
# Settings younger than the oldest bases: they count where they are not at their default, so that old keys stay valid.
YOUNGER_KEYS = {"compile": False}
TEST_ONLY = ("thing.score_thr", "thing.nms_thr", "thing.max_detections", "thing.rpn_test", "exchange.inlay_thr")
PLACES = ("data.source.root", "data.source.cache_dir", "data.source.processes")
# What stored predictions depend on, beside their base.
PREDICTION_KEYS = (*TEST_ONLY, "tta", "data.eval_transform", "data.max_eval_images")
# What the second stage depends on, beside its base.
STAGE_KEYS = ("occlusion", "schedule.occlusion")

# What a command does beside computing; a later command on the same run does not inherit it.
OF_ONE_COMMAND = ("force", "save_maps", "save_predictions", "saved", "grid", "check", "debug")

# Overrides that never change what is computed, or that the folder's name holds already.
NOT_IN_NAME = re.compile(
    r"^(method|data|backbone|seed|runs_dir|run_name|force|processes|save_maps|save_predictions|save_conf_thr|saved"
    r"|compare|sweep|debug|trusted|run|input|output"
    r"|data\.(num_workers|eval_batch_size|source\.(root|cache_dir|processes)|root)|trainer|trainer\..*|logger|logger\..*|hydra.*)$"
)


@dataclass(frozen=True)
class RunFolder:
    """Paths inside the folder of a base or of a run."""

    path: Path

    @property
    def checkpoints(self) -> Path:
        """Checkpoints of the stage in progress."""
        return self.path / "checkpoints"

    @property
    def config(self) -> Path:
        """The composed configuration."""
        return self.path / "config.yaml"

    @property
    def metrics(self) -> Path:
        """The results; the file that makes a run finished."""
        return self.path / "metrics.json"

    def weights(self, stage: str) -> Path:
        """Final weights of a stage: ``base`` or ``occlusion``."""
        return self.path / f"{stage}.safetensors"

    def progress(self) -> str:
        """How far the stage in progress has come."""
        names = sorted(path.stem for path in self.checkpoints.glob("[0-9]*.ckpt"))
        return f"which has come to step {int(names[-1])}" if names else ""

    def describe(self, cfg: DictConfig, categories: Categories) -> None:
        """Writes the configuration and the environment that made the run, and the categories it knows."""
        write_text(self.config, OmegaConf.to_yaml(cfg, resolve=True))
        write_json(self.path / "environment.json", environment(), indent=2)
        write_json(self.path / "categories.json", categories.to_json(), indent=2)

    def clear(self) -> None:
        """Removes everything that the run left here."""
        if self.path.exists():
            shutil.rmtree(self.path)


def base_folder(cfg: DictConfig) -> RunFolder:
    """The folder of the base that ``cfg`` needs."""
    return RunFolder(Path(cfg.runs_dir) / str(cfg.data.name) / f"base_{base_key(cfg)}")


def occlusion_folder(cfg: DictConfig) -> RunFolder:
    """The folder of the trained occlusion module that ``cfg`` needs, below its base, or with it if trained jointly."""
    if cfg.joint:
        return base_folder(cfg)
    return RunFolder(base_folder(cfg).path / f"{cfg.choices.occlusion}_{stage_key(cfg)}")


def run_folder(cfg: DictConfig, overrides: Sequence[str] = ()) -> RunFolder:
    """The folder of the run that ``cfg`` describes; ``overrides`` are the command line's ``key=value`` words."""
    name = cfg.run_name
    if name is None:
        parts = (cfg.method.name, cfg.backbone_name, f"s{cfg.seed}", overrides_name(overrides))
        name = "_".join(part for part in parts if part)
    return RunFolder(Path(cfg.runs_dir) / str(cfg.data.name) / name)


def overrides_name(overrides: Iterable[str]) -> str:
    """The words of a command line that change what is computed, as part of a file name; empty when there are none."""
    pairs = (word.lstrip("+~").split("=", 1) for word in overrides if "=" in word)
    kept = sorted(
        value if key == "experiment" else f"{key}-{value}" for key, value in pairs if not NOT_IN_NAME.match(key)
    )
    text = "_".join(re.sub(r"[^A-Za-z0-9.-]+", "-", item).strip("-") for item in kept)
    return text if len(text) <= 100 else hashlib.sha256(text.encode()).hexdigest()[:12]


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
    return {"base": base_key(cfg), **_flat(plain)}


def prediction_key(cfg: DictConfig) -> str:
    """Ten hex digits over ``prediction_settings``."""
    return _digest(prediction_settings(cfg))


def predictions_folder(cfg: DictConfig) -> Path:
    """The folder of the stored predictions that ``cfg`` needs, below their base."""
    return base_folder(cfg).path / f"predictions_{prediction_key(cfg)}"


def _subset(cfg: DictConfig, keys: Iterable[str]) -> dict[str, Any]:
    left_out = (*TEST_ONLY, *PLACES)
    chosen = OmegaConf.create({})
    for key in keys:
        value = OmegaConf.select(cfg, key)
        OmegaConf.update(chosen, key, value, force_add=True)
    plain = OmegaConf.to_container(chosen, resolve=True)
    assert isinstance(plain, dict)
    for key, default in YOUNGER_KEYS.items():
        if plain.get(key) in (None, default):
            plain.pop(key, None)
    for key in left_out:
        node: Any = plain
        *parents, last = key.split(".")
        for parent in parents:
            node = node.get(parent, {}) if isinstance(node, dict) else {}
        if isinstance(node, dict):
            node.pop(last, None)
    return {str(k): v for k, v in plain.items()}


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:10]


def check_same_run(folder: RunFolder, cfg: DictConfig) -> None:
    """Refuses a folder whose weights were trained with other settings, naming them."""
    if not folder.config.exists():
        return
    before = OmegaConf.load(folder.config)
    assert isinstance(before, DictConfig)
    if different := changes(before, cfg, (*BASE_KEYS, *STAGE_KEYS)):
        raise ConfigError(
            f"{folder.path} holds a run with other settings ({different}). "
            "Give this run another run_name, or replace the old one with force=true"
        )


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {prefix: value}
    return {k: v for key, item in value.items() for k, v in _flat(item, f"{prefix}.{key}" if prefix else key).items()}


def latest_checkpoint(folder: RunFolder) -> Path | None:
    """The newest readable checkpoint of the stage in progress; a damaged one is named and the one before it used."""
    for path in sorted(folder.checkpoints.glob("*.ckpt"), reverse=True):
        try:
            torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except Exception as error:  # torch raises many kinds for a damaged file, and any of them means: not this one
            log.warning("%s: cannot be read (%s), using the checkpoint before it", path, str(error).splitlines()[0])
            continue
        return path
    return None


def finished(folder: RunFolder) -> dict[str, Any] | None:
    """The results of a finished run, or None."""
    if not folder.metrics.exists():
        return None
    results: dict[str, Any] = read_json(folder.metrics)
    return results


def compares(folder: RunFolder, cfg: DictConfig) -> bool:
    """Whether the run in ``folder`` was made with every order that ``cfg`` wants to see."""
    before = OmegaConf.load(folder.config)
    assert isinstance(before, DictConfig)
    return set(cfg.compare) <= set(before.compare)


def load_run_config(path: Path, asked: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """The configuration of a run folder with the command line's overrides on top.

    ``asked``: what the command line alone composes to; packages that it trusts may be named in the file.
    CheckpointError when there is no run; ConfigError when an override would change what was trained, or when the file
    names a class that a run folder may not build.
    """
    file = path / "config.yaml"
    if not file.exists():
        found = sorted(str(p.parent) for p in path.glob("**/metrics.json")) if path.is_dir() else []
        raise CheckpointError(
            f"{path}: not a run folder (no config.yaml in it); run= takes the folder that train printed at its end; "
            f"runs below it: {', '.join(found[:5]) or '(none)'}"
        )
    before = OmegaConf.load(file)
    assert isinstance(before, DictConfig)
    check_targets(before, file, asked.trusted)
    # a group chosen now reads what the run chose before (its data, its schedule), not the defaults
    words = [word for word in before.command if "_target_" not in word]
    config = before.copy()
    for key in OF_ONE_COMMAND:
        config[key] = asked[key]
    asked = compose([*words, *overrides], users_conf())
    for key in dict.fromkeys(word.lstrip("+~").split("=", 1)[0] for word in overrides):
        if not key.startswith("hydra"):
            OmegaConf.update(config, key, OmegaConf.select(asked, key), merge=False, force_add=True)
            if key in asked.choices:
                config.choices[key] = asked.choices[key]
    config.command = [*config.command, *overrides]
    if base_key(config) != base_key(before):
        raise ConfigError(f"{path}: its base was trained with other settings: {changes(before, config, BASE_KEYS)}")
    return config


def changes(before: DictConfig, after: DictConfig, keys: Iterable[str]) -> str:
    """Which settings below ``keys`` differ, as ``key: old -> new``, the first few of them; empty when none does."""
    old, new = (_flat(_subset(config, keys)) for config in (before, after))
    differing = [k for k in sorted(old.keys() | new.keys()) if old.get(k) != new.get(k)]
    return "; ".join(f"{key}: {old.get(key)} -> {new.get(key)}" for key in differing[:5])
