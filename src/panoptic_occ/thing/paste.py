"""Pastes soft masks into the image: the one convention of the suite (``methods`` compare pixels, so never mix two)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from panoptic_occ.masks import MaskCrops, Window


def _weights(low: float, high: float, start: int, stop: int, cells: int, like: Tensor) -> Float[Tensor, "pixels cells"]:
    """Bilinear weights of the mask's cells for the pixels start..stop-1; what lies outside the mask counts as zero."""
    centres = torch.arange(start, stop, dtype=like.dtype, device=like.device) + 0.5
    position = (centres - low) / max(high - low, 1e-6) * cells - 0.5
    cell = torch.arange(cells, dtype=like.dtype, device=like.device)
    return (1 - (position[:, None] - cell[None, :]).abs()).clamp(min=0)


def paste_masks(
    probs: Float[Tensor, "n s s"], boxes: Float[Tensor, "n 4"], size: tuple[int, int], threshold: float = 0.5
) -> MaskCrops:
    """Binary masks of an image of ``size`` (height, width): bilinear sampling at pixel centres, prob >= ``threshold``.

    The same as ``grid_sample`` of the mask over its box with zero padding (the convention of detectron2), restricted to
    the pixels whose centres lie in the box.  Boxes may leave the image or be thinner than a pixel; such masks are cut
    or empty.  Bilinear sampling is separable, so each box costs two small matrix products.
    """
    height, width = size
    cells = probs.shape[-1]
    crops, corners = [], []
    probs = probs.float()
    edges = boxes.float()
    first = (edges[:, :2] - 0.5).ceil()
    last = (edges[:, 2:] - 0.5).floor() + 1
    limits = torch.cat([first, last], dim=1).nan_to_num(0).clamp(min=0).long().cpu().tolist()
    for prob, (x0, y0, x1, y1), (left, top, right, bottom) in zip(probs, edges.tolist(), limits, strict=True):
        left, top, right, bottom = min(left, width), min(top, height), min(right, width), min(bottom, height)
        if right <= left or bottom <= top:
            crops.append(torch.zeros((0, 0), dtype=torch.bool, device=probs.device))
            corners.append((0, 0))
            continue
        rows = _weights(y0, y1, top, bottom, cells, prob)
        columns = _weights(x0, x1, left, right, cells, prob)
        crops.append(rows @ prob @ columns.T >= threshold)
        corners.append((top, left))
    return MaskCrops.from_crops(crops, corners, size) if crops else MaskCrops.empty(size, probs.device)


def place_soft(values: Float[Tensor, "s s"], box: Float[Tensor, " 4"], window: Window) -> Float[Tensor, "y x"]:
    """Values of one box (probabilities, logits) at the pixel centres of ``window``, bilinear, as ``paste_masks`` reads
    them; 0 beyond the box's outermost cells."""
    ys, xs = window
    x0, y0, x1, y1 = box.float().tolist()
    rows = _weights(y0, y1, ys.start, ys.stop, values.shape[-1], values)
    columns = _weights(x0, x1, xs.start, xs.stop, values.shape[-1], values)
    return rows @ values @ columns.T
