"""Overlap of boxes."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor


def box_iou(first: Float[Tensor, "n 4"], second: Float[Tensor, "k 4"]) -> Float[Tensor, "n k"]:
    """Intersection over union of every two boxes (xyxy), 0 where both have no area."""
    from torchvision import ops  # here: it takes as long to import as torch, and few orders need it

    return ops.box_iou(first, second).nan_to_num(0.0)
