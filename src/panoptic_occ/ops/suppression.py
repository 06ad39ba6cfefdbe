"""Non-maximum suppression over all classes, before any order is asked for (BANet, section 4.3; mmdetection)."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float, Int, Real
from torch import Tensor

from panoptic_occ.common.errors import ConfigError, did_you_mean
from panoptic_occ.ops.boxes import box_iou
from panoptic_occ.structures.instances import InstanceSet
from panoptic_occ.structures.masks import PairStats

Suppression = Literal["box", "mask", "none"]
SUPPRESSIONS = ("box", "mask", "none")


def check_suppression(nms: Suppression, nms_thr: float) -> None:
    """ConfigError for settings that do not exist."""
    if nms not in SUPPRESSIONS:
        raise ConfigError(f"occlusion.nms={nms!r} is unknown; {did_you_mean(nms, SUPPRESSIONS)}")
    if not 0 <= nms_thr <= 1:
        raise ConfigError(f"occlusion.nms_thr={nms_thr!r}: must be an IoU between 0 and 1; nms=none switches it off")


def duplicates(instances: InstanceSet, stats: PairStats, kind: Suppression, iou_thr: float) -> Int[Tensor, " n"]:
    """Non-maximum suppression over all classes: the instance of better score that each one repeats, -1 for none.

    An instance is suppressed when its box or mask IoU with one that is not suppressed exceeds ``iou_thr``.
    """
    found = torch.full((len(instances),), -1)
    if kind == "none":
        return found.to(instances.scores.device)
    if kind == "box":
        iou = box_iou(instances.boxes, instances.boxes)
    else:
        union = stats.area[:, None] + stats.area[None, :] - stats.inter
        iou = stats.inter.double() / union.clamp(min=1)
    over = torch.where(iou > iou_thr, iou, 0)
    return suppress(instances.scores, over)


def suppress(scores: Float[Tensor, " n"], overlap: Real[Tensor, "n n"]) -> Int[Tensor, " n"]:
    """Going by falling score (stable): the one still standing that each instance overlaps most, -1 if it stands itself.

    ``overlap[i, j]``: 0 for pairs that can stand side by side; its diagonal is not read.
    """
    found = torch.full((len(scores),), -1)
    stands = torch.zeros(len(scores), dtype=torch.bool)
    overlap = overlap.cpu()
    for i in torch.argsort(scores, descending=True, stable=True).tolist():
        rivals = torch.where(stands, overlap[i], 0)
        if rivals.any():
            found[i] = rivals.argmax()
        else:
            stands[i] = True
    return found.to(scores.device)
