"""Annotated instances that an exchange reads in training: a part, as a detector misses some (BANet, section 3.4)."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from panoptic_occ.common.errors import ConfigError
from panoptic_occ.structures.target import Target
from panoptic_occ.thing.base import Rois


def annotated_rois(targets: Sequence[Target], keep: tuple[float, float]) -> list[Rois]:
    """A random share of the annotated instances of every image, with score 1, from torch's global generator."""
    rois = []
    for target in targets:
        count = len(target.labels)
        matches = torch.randperm(count)[: sampled_count(count, keep)].to(target.labels.device)
        boxes = target.boxes[matches].float()
        rois.append(Rois(boxes, target.labels[matches], torch.ones_like(boxes[:, 0]), matches))
    return rois


def checked_range(keep: tuple[float, float]) -> tuple[float, float]:
    """``keep``, or a ConfigError when it is no rising range of shares."""
    if not 0 <= keep[0] <= keep[1] <= 1:
        raise ConfigError(f"exchange.keep={list(keep)} must be a rising range within 0..1, as [0.6, 1.0]")
    return float(keep[0]), float(keep[1])


def sampled_count(count: int, keep: tuple[float, float]) -> int:
    """How many of ``count`` annotated instances are read: a share uniform in ``keep``, at least one of them."""
    rate = float(torch.empty(()).uniform_(*keep))
    return min(count, max(1, round(rate * count)))
