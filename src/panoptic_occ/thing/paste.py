"""Pastes soft masks into the image: the one convention of the suite (maps are compared by pixels; never mix two)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from panoptic_occ.structures.instances import InstanceSet
from panoptic_occ.structures.masks import MaskCrops, Window
from panoptic_occ.structures.sample import Requires
from panoptic_occ.thing.base import Pooled, Rois, Soft

LARGEST = 30.0
"""Largest logit: probabilities of exactly 0 and 1 have none."""


def cell_position(
    pixels: Int[Tensor, " p"], low: Float[Tensor, "#p"], high: Float[Tensor, "#p"], cells: int
) -> Float[Tensor, " p"]:
    """Where the centres of ``pixels`` lie among the cells of a mask that spans ``low`` to ``high``."""
    return (pixels.to(low.dtype) + 0.5 - low) / (high - low).clamp(min=1e-6) * cells - 0.5


def cell_weights(position: Float[Tensor, "*p"], cells: int) -> Float[Tensor, "*p {cells}"]:
    """Bilinear weights of the cells, with 0 around: sampling on a grid is separable, so a box costs two products."""
    cell = torch.arange(cells, dtype=position.dtype, device=position.device)
    return (position[..., None] - cell).abs_().neg_().add_(1).clamp_(min=0)


@torch.no_grad()
def paste_masks(
    probs: Float[Tensor, "n s s"], boxes: Float[Tensor, "n 4"], size: tuple[int, int], threshold: float = 0.5
) -> MaskCrops:
    """Binary masks of an image of ``size`` (height, width): bilinear sampling at pixel centres, prob >= ``threshold``.

    The same as ``grid_sample`` of the mask over its box with zero padding (the convention of detectron2), restricted to
    the pixels whose centres lie in the box.  Boxes may leave the image or be thinner than a pixel; such masks are cut
    or empty.
    """
    if len(probs) == 0:
        return MaskCrops.empty(size, probs.device)
    probs, boxes = probs.float(), boxes.float()
    windows = _windows(boxes, size)
    weights = _all_weights(windows, boxes, probs.shape[-1])
    areas: list[int] = (windows[:, 2] * windows[:, 3]).tolist()
    pixels = torch.empty(sum(areas), dtype=torch.bool, device=probs.device)
    scratch = probs.new_empty(max(areas))
    with torch.autocast(probs.device.type, enabled=False):  # half precision would move the outlines
        for crop, prob, row, column in zip(pixels.split(areas), probs, *weights, strict=True):
            soft = scratch[: len(crop)]
            torch.mm(row @ prob, column.T, out=soft.view(len(row), len(column)))
            _at_least(soft, threshold, crop)
    return MaskCrops(pixels, windows, (size[0], size[1]))


def paste_instances(
    rois: Sequence[Rois], soft: Soft, pooled: Pooled, sizes: Sequence[tuple[int, int]], requires: Requires
) -> list[InstanceSet]:
    """The regions of every image with their masks, in the frame of ``sizes`` (height, width) that the boxes have."""
    counts = [len(r) for r in rois]
    features: Sequence[Any] = pooled.split(counts) if "roi_features" in requires else [None] * len(counts)
    return [
        InstanceSet(paste_masks(probs, r.boxes, size), r.boxes, r.scores, r.labels, probs, feature)
        for r, probs, feature, size in zip(rois, soft.split(counts), features, sizes, strict=True)
    ]


def _windows(boxes: Float[Tensor, "n 4"], size: tuple[int, int]) -> Int[Tensor, "n 4"]:
    """(top, left, height, width) of the pixels of the image whose centres lie in each box; all 0 without any."""
    edges, limit = boxes.detach().cpu().numpy(), size[::-1]
    # fmax turns what is not a number into 0
    start = np.fmin(np.fmax(np.ceil(edges[:, :2] - 0.5), 0), limit)
    stop = np.fmin(np.fmax(np.floor(edges[:, 2:] - 0.5) + 1, 0), limit)
    windows = np.concatenate([start, stop - start], axis=1)[:, [1, 0, 3, 2]].astype(np.int64)
    windows[(windows[:, 2:] <= 0).any(axis=1)] = 0
    return torch.from_numpy(windows)


def _all_weights(
    windows: Int[Tensor, "n 4"], boxes: Float[Tensor, "n 4"], cells: int
) -> tuple[Sequence[Float[Tensor, "y {cells}"]], Sequence[Float[Tensor, "x {cells}"]]]:
    """``cell_weights`` for the rows and for the columns of every window, all computed at once."""
    first, lengths = windows[:, :2].T.flatten(), windows[:, 2:].T.flatten()  # of all rows, then of all columns
    edge = torch.repeat_interleave(lengths)
    pixels = torch.arange(len(edge)) + (first - lengths.cumsum(dim=0) + lengths)[edge]
    edge, pixels = edge.to(boxes.device), pixels.to(boxes.device)
    x0, y0, x1, y1 = boxes.unbind(dim=1)
    position = cell_position(pixels, torch.cat([y0, x0])[edge], torch.cat([y1, x1])[edge], cells)
    parts = cell_weights(position, cells).split(lengths.tolist())
    return parts[: len(boxes)], parts[len(boxes) :]


def _at_least(soft: Float[Tensor, " p"], threshold: float, out: Bool[Tensor, " p"]) -> None:
    """``soft >= threshold`` into ``out``; on a CPU numpy compares six times as fast as torch."""
    if soft.device.type == "cpu":
        np.greater_equal(soft.numpy(), threshold, out=out.numpy())
    else:
        torch.ge(soft, threshold, out=out)


def soft_logits(instances: InstanceSet) -> Float[Tensor, "n s s"]:
    """Logits (float32) of the soft masks, within ``LARGEST``; ValueError without soft masks."""
    if instances.soft is None:
        raise ValueError("this order needs instances.soft; see OcclusionModel.requires")
    return instances.soft.float().logit().clamp(-LARGEST, LARGEST)


def place_soft(values: Float[Tensor, "s s"], box: Float[Tensor, " 4"], window: Window) -> Float[Tensor, "y x"]:
    """Values of one box (probabilities, logits) at the pixel centres of ``window``, bilinear, as ``paste_masks`` reads
    them; 0 beyond the box's outermost cells."""
    ys, xs = (torch.arange(side.start, side.stop, device=values.device) for side in window)
    x0, y0, x1, y1 = box.to(values.dtype).to(values.device).split(1)
    rows, columns = (
        cell_weights(cell_position(*edge, len(values)), len(values)) for edge in ((ys, y0, y1), (xs, x0, x1))
    )
    return rows @ values @ columns.T
