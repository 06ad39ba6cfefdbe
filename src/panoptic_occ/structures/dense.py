"""Dense masks as people have them: tensors and arrays, with or without a channel, binary or soft."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

WANTED = "MaskCrops.from_dense takes masks (N, H, W) or (N, 1, H, W)"


def binary_masks(masks: Tensor | np.ndarray, threshold: float | None = None) -> Bool[Tensor, "n h w"]:
    """``masks`` as bool, without a channel; soft ones (floats) where they are ``threshold`` or more.

    Raises ValueError for other shapes, soft masks without a threshold, and integers that are not two values, 0 and 1 or
    0 and 255.
    """
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
    return masks >= threshold


def _tensor(masks: object) -> Tensor:
    """Without a copy where torch can share the memory of an array."""
    if isinstance(masks, Tensor) and not masks.is_complex():
        return masks
    if isinstance(masks, np.ndarray) and masks.dtype.kind in "biuf":
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
