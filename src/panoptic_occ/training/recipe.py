"""Builds the parts of a run from its configuration."""

from __future__ import annotations

from omegaconf import DictConfig

from panoptic_occ.config.instantiate import safe_instantiate
from panoptic_occ.runs.build import _part
from panoptic_occ.training.schedule import Schedule


def build_schedule(cfg: DictConfig) -> Schedule:
    """Both stages of ``cfg.schedule``."""
    settings = _part(cfg.schedule, ["_target_", "reference_batch", "base", "occlusion"])
    schedule: Schedule = safe_instantiate(settings)
    return schedule
