"""Builds the parts of a run from its configuration."""

from __future__ import annotations

import torch
from omegaconf import DictConfig, OmegaConf

from panoptic_occ.categories import Categories
from panoptic_occ.config import compose
from panoptic_occ.data.datamodule import PanopticDataModule
from panoptic_occ.errors import ConfigError, did_you_mean
from panoptic_occ.evaluation import Evaluation, Listener
from panoptic_occ.fusion.engine import FusionPolicy
from panoptic_occ.instantiate import safe_instantiate
from panoptic_occ.model import PanopticFPN
from panoptic_occ.occlusion.base import OcclusionModel
from panoptic_occ.schedule import Schedule
from panoptic_occ.seeding import stable_seed

DATA_LABELS = ("name", "stuff_area", "duplicate_thr", "root")
"""Keys of the data group that other groups read; the data module does not take them."""


def build_data(cfg: DictConfig) -> PanopticDataModule:
    """The data module, with its data prepared."""
    data: PanopticDataModule = safe_instantiate(data_settings(cfg))
    data.prepare_data()
    return data


def data_settings(cfg: DictConfig) -> DictConfig:
    """What of the data group the data module takes."""
    return OmegaConf.masked_copy(cfg.data, [key for key in cfg.data if key not in DATA_LABELS])


def build_model(cfg: DictConfig, categories: Categories) -> PanopticFPN:
    """The network with weights that are a function of ``cfg.seed``, module by module, so that choosing another
    occlusion module does not change the base."""
    _seed(cfg.seed, "backbone")
    backbone = safe_instantiate(cfg.backbone)
    parts = {"in_channels": backbone.out_channels, "categories": categories}
    _seed(cfg.seed, "thing")
    thing = safe_instantiate(cfg.thing)(**parts)
    _seed(cfg.seed, "stuff")
    stuff = safe_instantiate(cfg.stuff)(**parts)
    _seed(cfg.seed, "occlusion")
    occlusion = safe_instantiate(cfg.occlusion)(**parts)
    weights = {str(name): float(weight) for name, weight in cfg.schedule.loss_weights.items()}
    return PanopticFPN(backbone, thing, stuff, occlusion, weights, channels_last=cfg.channels_last)


def build_schedule(cfg: DictConfig) -> Schedule:
    """Both stages of ``cfg.schedule``."""
    schedule: Schedule = safe_instantiate(cfg.schedule)
    return schedule


def build_evaluation(
    cfg: DictConfig, model: PanopticFPN, categories: Categories, listeners: tuple[Listener, ...] = ()
) -> Evaluation:
    """The orders of ``cfg.compare`` and the method's own, all with the method's fusion policy."""
    method = str(cfg.choices.occlusion)
    relations: dict[str, OcclusionModel] = {}
    for name in cfg.compare:
        if name != method:
            relations[str(name)] = _baseline(str(name), cfg, model, categories)
    relations[method] = model.occlusion
    if "ground_truth" in relations:  # the ceiling is read last
        relations["ground_truth"] = relations.pop("ground_truth")
    policy: FusionPolicy = safe_instantiate(cfg.fusion)
    return Evaluation(relations, policy, categories, listeners=listeners)


def _baseline(name: str, cfg: DictConfig, model: PanopticFPN, categories: Categories) -> OcclusionModel:
    """An order of ``conf/occlusion`` without parameters of its own."""
    settings = compose([f"occlusion={name}"]).occlusion
    relation: OcclusionModel = safe_instantiate(settings)(
        in_channels=model.occlusion.in_channels, categories=categories
    )
    if relation.trainable:
        free = ("score", "area", "larger", "random", "ground_truth")
        raise ConfigError(
            f"compare: '{name}' has weights to train; compare takes orders without; {did_you_mean(name, free)}"
        )
    return relation


def _seed(seed: int, part: str) -> None:
    torch.manual_seed(stable_seed(seed, part))
