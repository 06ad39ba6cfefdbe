"""Builds the parts of a run from its configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from panoptic_occ.backbone.sharing import share_features
from panoptic_occ.categories import Categories
from panoptic_occ.data.datamodule import PanopticDataModule
from panoptic_occ.evaluation import Entry, Evaluation
from panoptic_occ.fusion.engine import FusionPolicy
from panoptic_occ.grid import Grid, Values, changed
from panoptic_occ.instantiate import safe_instantiate
from panoptic_occ.metrics.average_precision import AveragePrecision
from panoptic_occ.metrics.breakdown import Binning
from panoptic_occ.model import PanopticFPN
from panoptic_occ.occlusion.base import OcclusionModel
from panoptic_occ.occlusion.score import ScoreOrder
from panoptic_occ.runs.folders import base_folder
from panoptic_occ.schedule import Schedule
from panoptic_occ.seeding import stable_seed
from panoptic_occ.stored.recording import Recording

DATA_LABELS = ("name", "stuff_area", "stuff_component_area", "object_sizes", "erase_radius", "ocfusion", "root")
"""Keys of the data group that other groups read; the data module does not take them."""


def build_data(cfg: DictConfig) -> PanopticDataModule:
    """The data module, with its data prepared."""
    data: PanopticDataModule = safe_instantiate(data_settings(cfg))
    data.prepare_data()
    return data


def data_settings(cfg: DictConfig) -> DictConfig:
    """What of the data group the data module takes."""
    return _part(cfg.data, [str(key) for key in cfg.data if key not in DATA_LABELS])


def _part(config: DictConfig, keys: list[str]) -> DictConfig:
    """Some keys of a group, with its name in errors."""
    part: DictConfig = OmegaConf.masked_copy(config, keys)
    part._set_parent(config._get_parent())
    part._set_key(config._key())
    return part


def build_model(cfg: DictConfig, categories: Categories) -> PanopticFPN:
    """The network with weights that are a function of ``cfg.seed``, module by module, so that choosing another
    occlusion module does not change the base."""
    _seed(cfg.seed, "backbone")
    backbone: Any = share_features(safe_instantiate(_backbone(cfg)), cfg.share)
    parts = {"in_channels": backbone.out_channels, "categories": categories}
    _seed(cfg.seed, "thing")
    thing = safe_instantiate(cfg.thing)(**parts)
    _seed(cfg.seed, "stuff")
    stuff = safe_instantiate(cfg.stuff)(**parts)
    _seed(cfg.seed, "exchange")
    exchange = safe_instantiate(cfg.exchange)(**parts, stuff=stuff)
    occlusion = build_occlusion(cfg, backbone.out_channels, categories)
    weights = {str(name): float(weight) for name, weight in cfg.schedule.loss_weights.items()}
    model = PanopticFPN(backbone, thing, stuff, exchange, occlusion, weights, channels_last=cfg.channels_last)
    model.tta = safe_instantiate(cfg.tta)
    return model


def _backbone(cfg: DictConfig) -> DictConfig:
    """``cfg.backbone``, without pretrained weights where a trained base replaces them: nothing need be downloaded."""
    if cfg.backbone.get("weights") is None or not base_folder(cfg).weights("base").exists():
        return cfg.backbone
    trained = cfg.backbone.copy()
    trained.weights = None
    if "frozen_stages" in trained:
        trained.frozen_stages = 0  # a base is frozen whole
    return trained


def build_occlusion(cfg: DictConfig, in_channels: int, categories: Categories) -> OcclusionModel:
    """The occlusion module with fresh weights, a function of ``cfg.seed``."""
    _seed(cfg.seed, "occlusion")
    occlusion: OcclusionModel = safe_instantiate(cfg.occlusion)(in_channels=in_channels, categories=categories)
    return occlusion


def build_schedule(cfg: DictConfig) -> Schedule:
    """Both stages of ``cfg.schedule``."""
    settings = _part(cfg.schedule, ["_target_", "reference_batch", "base", "occlusion"])
    schedule: Schedule = safe_instantiate(settings)
    return schedule


@dataclass(frozen=True, eq=False)
class Variant:
    """A relation of a comparison: its name in ``conf/occlusion``, its module, and its settings in a grid."""

    relation: str
    model: OcclusionModel
    values: Values = field(default_factory=dict)


def grid_variants(cfg: DictConfig, trained: OcclusionModel, categories: Categories) -> list[Variant]:
    """The run's own relation at every point of ``cfg.grid``, all with the weights of ``trained``: where training reads
    a setting too (``sig_ratio``), only what is made of the answers changes."""
    relation, variants = str(cfg.choices.occlusion), []
    for values in Grid(cfg).points("occlusion"):
        model = trained
        if values:
            other = cfg.copy()
            other.occlusion = changed(cfg.occlusion, values)
            model = build_occlusion(other, trained.in_channels, categories)
            model.load_state_dict(trained.state_dict(), assign=True)  # shared, not copied
        variants.append(Variant(relation, model, values))
    return variants


def variants_of(cfg: DictConfig, modules: Mapping[str, OcclusionModel], categories: Categories) -> list[Variant]:
    """Every relation of a comparison by name, the run's own one at every point of the grid."""
    own = str(cfg.choices.occlusion)
    points = (
        grid_variants(cfg, module, categories) if name == own else [Variant(name, module)]
        for name, module in modules.items()
    )
    return [variant for variants in points for variant in variants]


def build_evaluation(
    cfg: DictConfig,
    variants: Sequence[Variant],
    categories: Categories,
    recording: Recording | None = None,
    annotations: Path | None = None,
) -> Evaluation:
    """Every relation with the method's fusion policy, with each of ``cfg.policies`` (changes of that policy), and at
    each point of ``cfg.grid``.

    ``annotations``: COCO instances of the images, which the average precision reads if ``cfg`` asks for it.
    """
    grid, entries = Grid(cfg), []
    for title, changes in (cfg.policies or {"": {}}).items():
        merged = OmegaConf.merge(cfg.fusion, changes)
        assert isinstance(merged, DictConfig)
        for point in grid.points("fusion"):
            policy: FusionPolicy = safe_instantiate(changed(merged, point))
            for variant in variants:
                values = {**point, **variant.values}
                name = " | ".join(part for part in (variant.relation, str(title), grid.title(values)) if part)
                entries.append(Entry(name, variant.relation, variant.model, policy, str(title), values))
    return Evaluation(
        entries,
        categories,
        recording=recording,
        details=Binning(tuple(cfg.data.object_sizes)) if cfg.details else None,
        timing=cfg.timing,
        oracle=frozenset(cfg.oracle),
        average_precision=AveragePrecision(annotations, categories) if cfg.average_precision and annotations else None,
        score_thr=float(cfg.thing.get("score_thr", 0.0)),
    )


def build_validation(cfg: DictConfig, stage: str, model: PanopticFPN, categories: Categories) -> Evaluation | None:
    """The evaluation while ``stage`` trains: score order, and the method from the stage on that trains it.

    None when ``cfg.validate`` asks for none.
    """
    if cfg.validate.every is None:
        return None
    policy: FusionPolicy = safe_instantiate(cfg.fusion)
    score = ScoreOrder(in_channels=model.occlusion.in_channels, categories=categories)
    entries = [Entry("score", "score", score, policy)]
    if stage != "base":
        name = str(cfg.choices.occlusion)
        entries.append(Entry(name, name, model.occlusion, policy))
    return Evaluation(entries, categories)


def _seed(seed: int, part: str) -> None:
    torch.manual_seed(stable_seed(seed, part))
