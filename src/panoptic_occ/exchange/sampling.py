"""Which annotated instances an exchange sees in training: a part, as a detector misses some (BANet, section 3.4)."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from panoptic_occ.structures.sample import Target
from panoptic_occ.thing.base import Rois


def annotated_rois(targets: Sequence[Target], keep: tuple[float, float]) -> list[Rois]:
    """A random share of the annotated instances of every image, with score 1; from torch's global generator, as all
    sampling of the base."""
    drawn = []
    for target in targets:
        count = len(target.labels)
        chosen = torch.randperm(count)[: sampled_count(count, keep)].to(target.labels.device)
        boxes = target.boxes[chosen].float()
        drawn.append(Rois(boxes, target.labels[chosen], torch.ones_like(boxes[:, 0]), chosen))
    return drawn


def sampled_count(count: int, keep: tuple[float, float]) -> int:
    """How many of ``count`` annotated instances are shown: a share uniform in ``keep``, at least one of them."""
    rate = float(torch.empty(()).uniform_(*keep))
    return min(count, max(1, round(rate * count)))
