"""RoIInlay: puts features that RoIAlign cropped back where they came from (BANet, Chen et al. 2020, section 3.2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from panoptic_occ.thing.paste import cell_weights


def roi_inlay(
    crops: Float[Tensor, "n c m m"],
    boxes: Float[Tensor, "n 5"],
    size: tuple[int, int, int],
    stride: float = 4.0,
    aligned: bool = True,
    weights: Float[Tensor, "n m m"] | None = None,
) -> Float[Tensor, "b c h w"]:
    """The inverse of RoIAlign: a map (images, height, width at ``stride``) that is 0 where no box is (Eqs. 2 and 3).

    ``boxes``: image index and xyxy in image pixels.  A pixel inside the box interpolates the values at the centres of
    the m x m bins bilinearly, beyond the outermost centres it repeats them, and where boxes overlap it gets the mean.
    ``aligned`` as in RoIAlign: the centre of pixel k lies at k + 0.5, and a box covers the centres in [x0, x1);
    otherwise at k, in [x0, x1], and a box is at least one pixel wide.
    ``weights``: of every bin, in [0, 1], interpolated like the values; where boxes overlap the mean is the weighted
    one, and a pixel of total weight below 1 gets the weighted sum, as one of a single box does.  None: all are 1.
    Differentiable (once) in ``crops`` and ``weights``.
    """
    images, height, width = size
    dtype = torch.promote_types(crops.dtype, torch.float32)
    rois = boxes[:, 1:].detach().to(dtype) / stride
    columns = axis_weights(rois[:, 0], rois[:, 2], crops.shape[-1], width, aligned)
    rows = axis_weights(rois[:, 1], rois[:, 3], crops.shape[-2], height, aligned)
    windows = _windows(boxes[:, 0], rows, columns)
    values = crops.to(dtype)
    if weights is not None:
        share = weights[:, None].to(dtype)
        values = torch.cat([values * share, share], dim=1)  # the last map becomes the total weight
    with torch.autocast(crops.device.type, enabled=False):
        total: Tensor = _Inlay.apply(values, rows, columns, windows, images)
    if weights is None:
        count = total.new_zeros((images, 1, height, width))
        for image, top, bottom, left, right in windows:
            count[image, :, top:bottom, left:right] += 1
    else:
        total, count = total.split([crops.shape[1], 1], dim=1)
    return (total / count.clamp(min=1)).to(crops.dtype)


def axis_weights(
    low: Float[Tensor, " n"], high: Float[Tensor, " n"], bins: int, length: int, aligned: bool
) -> Float[Tensor, "n l m"]:
    """Weights of the bins of every box for each pixel of one axis; they add up to 1 inside the box and to 0 outside.
    ``low``, ``high``: the box in pixels of the map."""
    extent = high - low if aligned else (high - low).clamp(min=1)
    centers = torch.arange(length, device=low.device, dtype=low.dtype) + (0.5 if aligned else 0.0)
    offset = centers - low[:, None]
    inside = (offset >= 0) & ((offset < extent[:, None]) if aligned else (offset <= extent[:, None]))
    smallest = torch.finfo(low.dtype).eps  # a box without extent covers nothing, but must not divide by zero
    position = (offset * bins / extent[:, None].clamp(min=smallest) - 0.5).clamp(0, bins - 1)
    return torch.where(inside[..., None], cell_weights(position, bins), 0)


def _windows(
    images: Float[Tensor, " n"], rows: Float[Tensor, "n h m"], columns: Float[Tensor, "n w m"]
) -> list[tuple[int, ...]]:
    """Image, top, bottom, left, right of the pixels that every box covers; one transfer from the device."""
    corners: list[Int[Tensor, " n"]] = [images.long()]
    for weights in (rows, columns):
        inside = weights.sum(dim=2) > 0
        first = inside.byte().argmax(dim=1)
        corners += [first, first + inside.sum(dim=1)]
    return [tuple(window) for window in torch.stack(corners, dim=1).tolist()]


class _Inlay(torch.autograd.Function):
    """Sums the windows of all boxes; written out because autograd would copy the whole map for every box."""

    @staticmethod
    def forward(
        ctx: Any,
        crops: Float[Tensor, "n c m m"],
        rows: Float[Tensor, "n h m"],
        columns: Float[Tensor, "n w m"],
        windows: Sequence[tuple[int, ...]],
        images: int,
    ) -> Float[Tensor, "b c h w"]:
        total = crops.new_zeros((images, crops.shape[1], rows.shape[1], columns.shape[1]))
        for crop, row, column, (image, top, bottom, left, right) in zip(crops, rows, columns, windows, strict=True):
            total[image, :, top:bottom, left:right] += row[top:bottom] @ (crop @ column[left:right].T)
        ctx.save_for_backward(rows, columns)
        ctx.windows = windows
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Float[Tensor, "b c h w"]) -> tuple[Tensor, None, None, None, None]:
        rows, columns = ctx.saved_tensors
        out = grad.new_zeros((len(rows), grad.shape[1], rows.shape[2], columns.shape[2]))
        for slot, row, column, (image, top, bottom, left, right) in zip(out, rows, columns, ctx.windows, strict=True):
            window = grad[image, :, top:bottom, left:right]
            slot.copy_(row[top:bottom].T @ (window @ column[left:right]))
        return out, None, None, None, None
