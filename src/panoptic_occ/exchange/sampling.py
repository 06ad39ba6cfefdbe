"""Annotated instances that an exchange reads in training: a part, as a detector misses some (BANet, section 3.4)."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from panoptic_occ.structures.target import Target
from panoptic_occ.thing.base import Rois


def annotated_rois(targets: Sequence[Target], keep: tuple[float, float]) -> list[Rois]:
    """A random share of the annotated instances of every image, with score 1.

    Drawn from torch's global generator, as all samples of the base.
    """
    rois = []
    for target in targets:
        count = len(target.labels)
        matches = torch.randperm(count)[: sampled_count(count, keep)].to(target.labels.device)
        boxes = target.boxes[matches].float()
        rois.append(Rois(boxes, target.labels[matches], torch.ones_like(boxes[:, 0]), matches))
    return rois


def sampled_count(count: int, keep: tuple[float, float]) -> int:
    """How many of ``count`` annotated instances are read: a share uniform in ``keep``, at least one of them."""
    rate = float(torch.empty(()).uniform_(*keep))
    return min(count, max(1, round(rate * count)))
