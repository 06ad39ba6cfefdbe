"""The most likely class of every pixel, read from logits at stride 4 without making them at full resolution.

Bilinear interpolation gives every pixel a weighted mean of a few cells.  Where all of them have the same winner, that
class wins the pixel; only the pixels between cells of different winners, 5 to 10 % of a usual map, are interpolated, in
all classes, because one that is second in every cell may win the mean.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

STRIDE = 4
DISAGREE = -1
PIXELS_AT_ONCE = 1 << 14  # 4 MB of logits for 54 classes
LANES = 16  # floats of a vector register; numpy's argmax takes several times as long over a remainder


def most_likely(
    logits: Float[Tensor, "c h4 w4"], inside: tuple[int, int], size: tuple[int, int], align_corners: bool = False
) -> Int[Tensor, "h w"]:
    """The channel of the highest logit at every pixel of the original image (int64), the first of equal ones.

    ``logits`` are at stride 4 of the padded input, whose first ``inside`` = (height, width) pixels show the image of
    ``size``; ``align_corners``: of the step to pixels.  The same as ``full_logits(...).argmax(dim=0)``, the form of
    GPUs, but for pixels whose two highest logits differ by less than rounding does (1e-6 of the largest).
    """
    if logits.device.type != "cpu":
        return full_logits(logits, inside, size, align_corners).argmax(dim=0)
    table = _table(logits.detach())
    rows, columns = (Axis.of(*edge, align_corners) for edge in zip(logits.shape[1:], inside, size, strict=True))
    winners = _common(table.argmax(axis=2), rows.windows)
    winners = _common(winners.T, columns.windows).T
    labels = _spread(winners, rows, columns)
    mixed = np.flatnonzero(_spread(winners == DISAGREE, rows, columns))
    for start in range(0, len(mixed), PIXELS_AT_ONCE):
        pixels = mixed[start : start + PIXELS_AT_ONCE]
        labels.reshape(-1)[pixels] = _interpolated(table, rows, columns, pixels).argmax(axis=1)
    return torch.from_numpy(labels)


def full_logits(
    logits: Float[Tensor, "c h4 w4"], inside: tuple[int, int], size: tuple[int, int], align_corners: bool = False
) -> Float[Tensor, "c h w"]:
    """Logits (float32) of every pixel of the original image; the padding is cut off before the last resize."""
    full = upsample(logits[None], align_corners)[..., : inside[0], : inside[1]]
    if tuple(inside) != tuple(size):
        full = F.interpolate(full, size=size, mode="bilinear", align_corners=False)
    return full[0]


def upsample(logits: Float[Tensor, "b c h4 w4"], align_corners: bool = False) -> Float[Tensor, "b c h w"]:
    """From stride 4 to pixels (float32)."""
    return F.interpolate(logits.float(), scale_factor=STRIDE, mode="bilinear", align_corners=align_corners)


class Axis(NamedTuple):
    """Where the pixels of one axis read: pixel p takes ``weights[p]`` of the cells ``windows[window_of[p]]``.
    Neighbouring pixels share windows.  A window of fewer cells than the widest repeats its last one, at weight 0."""

    windows: Int[np.ndarray, "m k"]
    window_of: Int[np.ndarray, " pixels"]
    weights: Float[np.ndarray, "pixels k"]

    @staticmethod
    def of(cells: int, inside: int, size: int, align_corners: bool) -> Axis:
        """From the interpolation of unit impulses, so that the weights are those of the library itself."""
        units = torch.eye(cells)[None]
        impulses = F.interpolate(units, scale_factor=STRIDE, mode="linear", align_corners=align_corners)
        impulses = impulses[..., :inside]
        if inside != size:
            impulses = F.interpolate(impulses, size=size, mode="linear", align_corners=False)
        response = impulses[0].numpy()
        first = (response > 0).argmax(axis=0)
        last = cells - 1 - (response[::-1] > 0).argmax(axis=0)
        taps = first[:, None] + np.arange((last - first).max() + 1)
        weights = response[taps.clip(max=cells - 1), np.arange(size)[:, None]] * (taps <= last[:, None])
        _, one_of, window_of = np.unique(first * cells + last, return_index=True, return_inverse=True)
        return Axis(np.minimum(taps, last[:, None])[one_of], window_of, weights)


def _table(logits: Float[Tensor, "c h4 w4"]) -> Float[np.ndarray, "h4 w4 lanes"]:
    """Logits cell by cell, with copies of the first channel behind the last one, which never win against it."""
    channels, height, width = logits.shape
    table = torch.empty((height, width, -(-channels // LANES) * LANES))
    table[..., :channels] = logits.permute(1, 2, 0)
    table[..., channels:] = table[..., :1]
    return table.numpy()


def _common(winners: Int[np.ndarray, "h w"], windows: Int[np.ndarray, "m k"]) -> Int[np.ndarray, "m w"]:
    """The winner that all rows of a window have in common, column by column; ``DISAGREE`` where they differ."""
    first = winners[windows[:, 0]]
    same = np.ones(first.shape, dtype=bool)
    for tap in windows.T[1:]:
        same &= winners[tap] == first
    return np.where(same, first, DISAGREE)


def _spread(values: Int[np.ndarray, "m n"] | Bool[np.ndarray, "m n"], rows: Axis, columns: Axis) -> np.ndarray:
    """To every pixel the value of its pair of windows."""
    return values.take(columns.window_of, axis=1).take(rows.window_of, axis=0)


def _interpolated(
    table: Float[np.ndarray, "h4 w4 lanes"], rows: Axis, columns: Axis, pixels: Int[np.ndarray, " m"]
) -> Float[np.ndarray, "m lanes"]:
    """Logits of the pixels with these numbers, counted row by row."""
    y, x = np.divmod(pixels, len(columns.window_of))
    tall, wide = rows.weights.shape[1], columns.weights.shape[1]
    # products of row and column are laid out before the pixels are drawn: numpy is slow over short inner axes
    above = np.repeat(rows.windows[rows.window_of] * table.shape[1], wide, axis=1)
    beside = np.tile(columns.windows[columns.window_of], tall)
    cells = above.take(y, axis=0) + beside.take(x, axis=0)
    weights = np.repeat(rows.weights, wide, axis=1).take(y, axis=0) * np.tile(columns.weights, tall).take(x, axis=0)
    flat = torch.from_numpy(table).flatten(0, 1)
    bags = F.embedding_bag(torch.from_numpy(cells), flat, per_sample_weights=torch.from_numpy(weights), mode="sum")
    return bags.numpy()
