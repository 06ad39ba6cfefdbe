"""What "the same result" means for each job; every function raises MismatchError where it does not hold."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from panoptic_occ.structures.masks import MaskCrops
from panoptic_occ.structures.panoptic_map import PanopticMap
from scripts.benchmark.inputs import Detections
from scripts.benchmark.measure import MismatchError
from scripts.benchmark.reference import DenseMap, stretch

TIE = 1e-5
"""Float32 sums in another order differ by less; nothing but a threshold this close may fall on the other side."""
BORDER = 2
"""Pixels: torchvision rounds boxes to whole pixels before it stretches masks over them..."""
SHALLOW = 0.05
"""... which changes a probability by less than this where it hardly changes from pixel to pixel."""
IOU_ERROR = 1e-5
"""torchmetrics sums IoU in float32."""


def expect(condition: bool, message: str) -> None:
    """MismatchError with ``message`` unless the condition holds."""
    if not condition:
        raise MismatchError(message)


def equal(ours: Tensor, theirs: Tensor, what: str) -> None:
    """Every element, exactly."""
    expect(ours.shape == theirs.shape, f"{what}: shapes {tuple(ours.shape)} and {tuple(theirs.shape)}")
    wrong = int((ours != theirs).sum())
    expect(wrong == 0, f"{what}: {wrong} of {ours.numel()} elements differ")


def close(ours: Tensor, theirs: Tensor, what: str, tolerance: float = 1e-4) -> None:
    """Every element, up to ``tolerance`` of the largest."""
    expect(ours.shape == theirs.shape, f"{what}: shapes {tuple(ours.shape)} and {tuple(theirs.shape)}")
    if ours.numel():
        error = float((ours - theirs).abs().max() / theirs.abs().max().clamp(min=1e-12))
        expect(error <= tolerance, f"{what}: differs by {error:.1e} of the largest value, {tolerance:.0e} is allowed")


def same_map(ours: PanopticMap, theirs: DenseMap, undecided: Bool[Tensor, "h w"] | None = None) -> None:
    """Ids pixel by pixel, and the segments with their labels, areas and instances; ``undecided`` pixels may differ."""
    if undecided is None or not (ours.ids != theirs.ids).any():
        equal(ours.ids, theirs.ids, "panoptic map")
        segments = tuple((s.id, s.label, s.area, s.instance) for s in ours.segments)
        expect(segments == theirs.segments, f"segments: {segments} and {theirs.segments}")
        return
    equal(ours.ids[~undecided], theirs.ids[~undecided], "panoptic map where the network is decided")
    found, wanted = ([(s.id, s.label, s.instance) for s in part.segments] for part in (ours, theirs))
    expect(found == wanted, f"segments: {found} and {wanted}")


def same_masks(ours: MaskCrops, theirs: Bool[Tensor, "n h w"], found: Detections) -> None:
    """Pixel by pixel, but where the probability is within TIE of the threshold."""
    for k, (mask, other) in enumerate(zip(ours.dense(), theirs, strict=True)):
        wrong = mask != other
        if wrong.any():
            window, probs = stretch(found.soft[k].double(), found.boxes[k].double(), found.size)
            clear = torch.ones_like(wrong)
            clear[window] = (probs - 0.5).abs() > TIE
            expect(not (wrong & clear).any(), f"mask {k}: {int((wrong & clear).sum())} pixels differ")


def alike_masks(ours: MaskCrops, theirs: Float[Tensor, "n 1 h w"]) -> None:
    """Equal but within BORDER pixels of a mask's outline, and where the probability is nearly the threshold."""
    height, width = ours.size
    for k, ((ys, xs), _) in enumerate(ours):
        margin = 3 * BORDER
        rows = slice(max(ys.start - margin, 0), min(ys.stop + margin, height))
        columns = slice(max(xs.start - margin, 0), min(xs.stop + margin, width))
        mask = ours[[k]].dense()[0, rows, columns].float()[None]
        probs = theirs[k, 0, rows, columns]
        other = probs > 0.5
        window = 2 * BORDER + 1
        most = F.max_pool2d(mask, window, stride=1, padding=BORDER)[0] > 0
        least = -F.max_pool2d(-mask, window, stride=1, padding=BORDER)[0] > 0
        far = ((other < least) | (other > most)) & ((probs - 0.5).abs() > SHALLOW)
        expect(not far.any(), f"mask {k}: {int(far.sum())} pixels differ that are not at its border")
        outside = int((theirs[k, 0] > 0.5).sum()) - int(other.sum())
        expect(outside == 0, f"mask {k}: {outside} pixels far from its box")


def same_labels(
    ours: Int[Tensor, "h w"],
    theirs: Int[Tensor, "h w"],
    logits: Float[Tensor, "c h4 w4"],
    inside: tuple[int, int],
    size: tuple[int, int],
) -> None:
    """Pixel by pixel, but where the two best logits tie."""
    expect(ours.shape == theirs.shape, f"label map: shapes {tuple(ours.shape)} and {tuple(theirs.shape)}")
    wrong = ours != theirs
    if wrong.any():
        apart = int((wrong & ~tied(logits, inside, size)).sum())
        expect(apart == 0, f"label map: {apart} pixels differ where the logits are no tie")


def tied(logits: Float[Tensor, "c h4 w4"], inside: tuple[int, int], size: tuple[int, int]) -> Bool[Tensor, "h w"]:
    """Pixels whose two best logits, in float64, are within TIE of each other, relative to the best."""
    best = torch.full(size, -torch.inf, dtype=torch.float64)
    second = best.clone()
    for channel in logits.double():
        value = _resized(channel, inside, size)
        second = torch.maximum(second, torch.minimum(best, value))
        best = torch.maximum(best, value)
    return best - second <= TIE * best.abs().clamp(min=1)


def _resized(channel: Tensor, inside: tuple[int, int], size: tuple[int, int]) -> Float[Tensor, "h w"]:
    full = F.interpolate(channel[None, None], scale_factor=4, mode="bilinear", align_corners=False)
    return F.interpolate(full[..., : inside[0], : inside[1]], size=size, mode="bilinear", align_corners=False)[0, 0]


def same_counts(ours: Any, theirs: Iterable[Sequence[float]]) -> None:
    """tp, fp, fn of every category exactly, the IoU sums up to IOU_ERROR each; both as four sequences."""
    for name, mine, other in zip(("tp", "fp", "fn"), ours, theirs, strict=False):
        expect(list(mine) == list(other), f"{name} by category: {list(mine)} and {list(other)}")
    sums = [torch.as_tensor(list(values)[3], dtype=torch.float64) for values in (ours, theirs)]
    error = float((sums[0] - sums[1]).abs().max())
    expect(error <= IOU_ERROR, f"IoU sums differ by {error:.1e}")
