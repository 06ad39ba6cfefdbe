"""Which annotation a detection stands for."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from panoptic_occ.structures.instances import InstanceSet, by_score
from panoptic_occ.structures.masks import MaskCrops, common_rectangles, intersections
from panoptic_occ.structures.target import Target

UNMATCHED = -1

Match = Literal["mask", "box"]


def mask_iou(first: MaskCrops, second: MaskCrops, iou_thr: float = 0.0) -> Float64[Tensor, "n k"]:
    """Intersection over union of every two masks, on the CPU; 0 for pairs whose areas and windows tell that they are
    below ``iou_thr``."""
    areas = first.area.cpu().numpy()[:, None], second.area.cpu().numpy()[None, :]
    low, high = common_rectangles(first, second)
    most = np.minimum(np.minimum(*areas), np.maximum(high - low, 0).prod(axis=2))
    possible = torch.from_numpy(_iou(most, *areas) >= iou_thr) if iou_thr > 0 else None
    return torch.from_numpy(_iou(intersections(first, second, possible).cpu().numpy(), *areas))


def box_iou(first: Float[Tensor, "n 4"], second: Float[Tensor, "k 4"]) -> Float[Tensor, "n k"]:
    """Intersection over union of every two boxes (xyxy), 0 where both have no area."""
    from torchvision import ops  # here: it takes as long to import as torch, and few orders need it

    return ops.box_iou(first, second).nan_to_num(0.0)


def match_instances(instances: InstanceSet, masks: MaskCrops, iou_thr: float = 0.5) -> Int[Tensor, " n"]:
    """(N,) int64: index of the annotated mask that each detection matches, -1 without one.  By falling score (stable),
    whatever its class, each takes the free annotation of highest mask IoU, if that is ``iou_thr`` or more."""
    return one_to_one(mask_iou(instances.masks, masks, iou_thr), instances.scores, iou_thr)


def match_boxes(instances: InstanceSet, boxes: Float[Tensor, "k 4"], iou_thr: float = 0.5) -> Int[Tensor, " n"]:
    """``match_instances`` by the IoU of boxes (xyxy, same frame), as BANet's Table 4 may be read."""
    return one_to_one(_box_iou(instances, boxes).cpu(), instances.scores, iou_thr)


def best_boxes(instances: InstanceSet, boxes: Float[Tensor, "k 4"]) -> Int[Tensor, " n"]:
    """(N,) int64: index of the annotated box that overlaps each detection's most (the first of equal ones), -1 where
    none does; classes do not matter, and several detections may have the same (RAP's script)."""
    if not len(boxes):
        return torch.full_like(instances.labels, UNMATCHED)
    most, best = _box_iou(instances, boxes).max(dim=1)
    return torch.where(most > 0, best, UNMATCHED)


def matches_of(instances: InstanceSet, target: Target, iou_thr: float = 0.5, by: Match = "mask") -> Int[Tensor, " n"]:
    """(N,) int64: index of the annotation that each detection matches by the IoU of masks or boxes, -1 without one."""
    if by == "box":
        return match_boxes(instances, target.boxes, iou_thr)
    return match_instances(instances, target.masks, iou_thr)


def one_to_one(iou: Float64[Tensor, "n k"], scores: Float[Tensor, " n"], iou_thr: float) -> Int[Tensor, " n"]:
    """By falling score (stable), the free column of highest IoU of every row, -1 if that is 0 or below ``iou_thr``."""
    matches = np.full(len(scores), UNMATCHED, dtype=np.int64)
    free = iou.numpy().copy()
    able = (free >= iou_thr) & (free > 0)
    order = by_score(scores).cpu().numpy()
    for i in order[able[order].any(axis=1)].tolist():
        best = int(free[i].argmax())
        if able[i, best]:
            matches[i] = best
            free[:, best], able[:, best] = -1, False  # taken
    return torch.from_numpy(matches).to(scores.device)


def _box_iou(instances: InstanceSet, boxes: Float[Tensor, "k 4"]) -> Float64[Tensor, "n k"]:
    return box_iou(instances.boxes.double(), boxes.to(instances.boxes.device).double())


def _iou(
    common: Int[np.ndarray, "n k"], first: Int[np.ndarray, "n 1"], second: Int[np.ndarray, "1 k"]
) -> Float64[np.ndarray, "n k"]:
    """Quotients of integers, so that more common pixels never give a smaller one."""
    return common / np.maximum(first + second - common, 1)
