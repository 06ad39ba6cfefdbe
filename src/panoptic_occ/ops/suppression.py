"""Non-maximum suppression over all classes, before any order is asked for (BANet, section 4.3; mmdetection)."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float, Int, Real
from torch import Tensor

from panoptic_occ.ops.matching import box_iou
from panoptic_occ.structures.instances import InstanceSet, by_score
from panoptic_occ.structures.masks import PairStats

Suppression = Literal["box", "mask", "none"]


def duplicates(instances: InstanceSet, stats: PairStats, kind: Suppression, iou_thr: float) -> Int[Tensor, " n"]:
    """Index of the kept instance that each one repeats, -1 if it is kept itself: a kept one of better score and any
    class, with a box or mask IoU above ``iou_thr``."""
    if kind == "none":
        return torch.full((len(instances),), -1, device=instances.scores.device)
    if kind == "box":
        iou = box_iou(instances.boxes, instances.boxes)
    else:
        union = stats.area[:, None] + stats.area[None, :] - stats.inter
        iou = stats.inter.double() / union.clamp(min=1)
    return suppress(instances.scores, torch.where(iou > iou_thr, iou, 0))


def suppress(scores: Float[Tensor, " n"], overlap: Real[Tensor, "n n"]) -> Int[Tensor, " n"]:
    """Index of the kept instance that suppresses each one, -1 if kept; by falling score (stable).  Of several, the one
    of largest ``overlap``, which is 0 for pairs that can both be kept; its diagonal is not read."""
    suppressor = torch.full((len(scores),), -1)
    kept = torch.zeros(len(scores), dtype=torch.bool)
    overlap = overlap.cpu()
    for i in by_score(scores).tolist():
        rivals = torch.where(kept, overlap[i], 0)
        if rivals.any():
            suppressor[i] = rivals.argmax()
        else:
            kept[i] = True
    return suppressor.to(scores.device)
