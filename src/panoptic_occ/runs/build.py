"""Builds the parts of a run from its configuration."""

from __future__ import annotations

from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from panoptic_occ.backbone.sharing import share_features
from panoptic_occ.common.seeding import stable_seed
from panoptic_occ.config.instantiate import safe_instantiate
from panoptic_occ.data.loading.datamodule import PanopticDataModule
from panoptic_occ.network.panoptic_fpn import PanopticFPN
from panoptic_occ.occlusion.base import OcclusionModel
from panoptic_occ.runs.folders import base_folder
from panoptic_occ.structures.categories import Categories

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


def _seed(seed: int, part: str) -> None:
    torch.manual_seed(stable_seed(seed, part))
