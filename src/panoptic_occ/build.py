"""Builds the parts of a run from its configuration."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from omegaconf import DictConfig, OmegaConf

from panoptic_occ.categories import Categories
from panoptic_occ.data.datamodule import PanopticDataModule
from panoptic_occ.evaluation import Entry, Evaluation, Listener
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
    _seed(cfg.seed, "exchange")
    exchange = safe_instantiate(cfg.exchange)(**parts, stuff=stuff)
    occlusion = build_occlusion(cfg, backbone.out_channels, categories)
    weights = {str(name): float(weight) for name, weight in cfg.schedule.loss_weights.items()}
    return PanopticFPN(backbone, thing, stuff, exchange, occlusion, weights, channels_last=cfg.channels_last)


def build_occlusion(cfg: DictConfig, in_channels: int, categories: Categories) -> OcclusionModel:
    """The occlusion module with fresh weights, a function of ``cfg.seed``."""
    _seed(cfg.seed, "occlusion")
    occlusion: OcclusionModel = safe_instantiate(cfg.occlusion)(in_channels=in_channels, categories=categories)
    return occlusion


def build_schedule(cfg: DictConfig) -> Schedule:
    """Both stages of ``cfg.schedule``."""
    settings = OmegaConf.masked_copy(cfg.schedule, [key for key in cfg.schedule if key != "methods"])
    schedule: Schedule = safe_instantiate(settings)
    return schedule


def build_evaluation(
    cfg: DictConfig,
    relations: Mapping[str, OcclusionModel],
    categories: Categories,
    listeners: tuple[Listener, ...] = (),
) -> Evaluation:
    """Every relation with the method's fusion policy, or with each of ``cfg.policies`` (changes of that policy)."""
    if not cfg.policies:
        policy: FusionPolicy = safe_instantiate(cfg.fusion)
        entries = [Entry(name, name, model, policy) for name, model in relations.items()]
        return Evaluation(entries, categories, listeners=listeners)
    entries = []
    for title, changes in cfg.policies.items():
        merged = OmegaConf.merge(cfg.fusion, changes)
        assert isinstance(merged, DictConfig)
        policy = safe_instantiate(merged)
        entries += [Entry(f"{name} | {title}", name, model, policy, str(title)) for name, model in relations.items()]
    return Evaluation(entries, categories, listeners=listeners)


def _seed(seed: int, part: str) -> None:
    torch.manual_seed(stable_seed(seed, part))
