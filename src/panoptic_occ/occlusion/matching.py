"""Which annotation a detection stands for."""

from __future__ import annotations

import torch
from jaxtyping import Float64, Int
from torch import Tensor

from panoptic_occ.masks import MaskCrops, intersections
from panoptic_occ.structures import InstanceSet

UNMATCHED = -1


def mask_iou(first: MaskCrops, second: MaskCrops) -> Float64[Tensor, "n k"]:
    """Intersection over union of every mask of ``first`` with every mask of ``second``, on the CPU."""
    common = intersections(first, second)
    union = first.area[:, None] + second.area[None, :] - common
    return (common.double() / union.clamp(min=1)).cpu()


def match_instances(instances: InstanceSet, masks: MaskCrops, iou_thr: float = 0.5) -> Int[Tensor, " n"]:
    """(N,) int64: index of the annotated mask that each detection matches, -1 without one.

    One to one and without regard to class: by falling score (stable) each detection takes the free annotation of
    highest mask IoU, if that is ``iou_thr`` or more.
    """
    matches = torch.full((len(instances),), UNMATCHED, dtype=torch.int64)
    if len(instances) and len(masks):
        iou = mask_iou(instances.masks, masks)
        for i in torch.argsort(instances.scores, descending=True, stable=True).tolist():
            best = int(iou[i].argmax())
            if iou[i, best] >= iou_thr and iou[i, best] > 0:
                matches[i] = best
                iou[:, best] = -1  # taken
    return matches.to(instances.scores.device)
