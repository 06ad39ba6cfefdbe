"""Dense masks as people have them: tensors and arrays, with or without a channel, binary or soft."""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

SUPPORTED = (
    torch.bool, torch.uint8, torch.uint16, torch.uint32, torch.uint64, torch.int8, torch.int16, torch.int32,
    torch.int64, torch.float16, torch.bfloat16, torch.float32, torch.float64,
)  # fmt: skip
"""Types that can be compared; those of 8 bits, complex and quantised numbers cannot."""
WANTED = "MaskCrops.from_dense takes masks (N, H, W) or (N, 1, H, W)"


def binary_masks(masks: Tensor | np.ndarray, threshold: float | None = None) -> Bool[Tensor, "n h w"]:
    """``masks`` as bool, without a channel; soft ones (floats) where they are ``threshold`` or more.

    Raises ValueError for other shapes and types, soft masks with NaN or without a threshold, a threshold that is no
    finite number, and integers that are not two values, 0 and 1 or 0 and 255.
    """
    _check_threshold(threshold)
    masks = _tensor(masks)
    if masks.ndim == 4 and masks.shape[1] == 1:
        masks = masks[:, 0]
    if masks.ndim != 3:
        fixes = {2: "of one mask give mask[None]", 4: "of a mask for every class choose that of the label"}
        fix = fixes.get(masks.ndim, "one mask for each instance is meant")
        raise ValueError(f"{WANTED}, these have the shape {tuple(masks.shape)}; {fix}")
    if masks.dtype == torch.bool:
        return masks
    if not masks.is_floating_point():
        return _of_two_values(masks)
    if threshold is None:
        raise ValueError(
            f"{WANTED} of two values, these are soft ({masks.dtype}); say from which value on a pixel belongs to its "
            "mask: threshold=0.5 for probabilities, as torchvision's Mask R-CNN hands them out, threshold=0 for logits"
        )
    if bool(masks.isnan().any()):
        raise ValueError(f"{WANTED}, these hold NaN, which is on neither side of a threshold; mend what made them")
    return masks >= threshold


def _check_threshold(threshold: object) -> None:
    """ValueError unless it is a finite number or None."""
    if threshold is None:
        return
    if (
        isinstance(threshold, bool)
        or not isinstance(threshold, int | float | np.integer | np.floating)
        or not math.isfinite(threshold)
    ):
        raise ValueError(f"MaskCrops.from_dense: threshold={threshold!r}; a finite number is needed, such as 0.5")


def _tensor(masks: object) -> Tensor:
    """Without a copy where torch can share the memory of an array."""
    if isinstance(masks, Tensor) and masks.dtype in SUPPORTED:
        return masks
    if isinstance(masks, np.ndarray) and masks.dtype.kind in "biuf" and masks.dtype.itemsize <= 8:
        array = np.ascontiguousarray(masks, dtype=masks.dtype.newbyteorder("="))
        return torch.from_numpy(array if array.flags.writeable else array.copy())
    what = type(masks).__name__ + (f" of {masks.dtype}" if isinstance(masks, Tensor | np.ndarray) else "")
    raise ValueError(f"{WANTED} as one tensor or numpy array of numbers, not a {what}; torch.stack joins several")


def _of_two_values(masks: Tensor) -> Bool[Tensor, "n h w"]:
    values = masks if masks.dtype == torch.uint8 else masks.long()  # not every operation knows every unsigned type
    low, high = (int(value) for value in values.aminmax()) if values.numel() else (0, 0)
    if low < 0 or high not in (0, 1, 255) or (high == 255 and bool(((values != 0) & (values != 255)).any())):
        raise ValueError(
            f"{WANTED} of two values, 0 and 1 or 0 and 255; these are integers from {low} to {high}; of a map of ids "
            "give (ids == id) for each instance, of gray values masks >= the value that you mean"
        )
    return values.bool()
