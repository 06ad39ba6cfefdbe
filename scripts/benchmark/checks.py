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
from scripts.benchmark.reference import DenseMap, full_logits, stretch

TIE = 1e-5  # float32 sums in another order differ by less; only a threshold this close may fall on the other side
BORDER = 2  # pixels: torchvision rounds boxes to whole pixels before it stretches masks over them ...
SHALLOW = 0.05  # ... which changes a probability by less where it hardly changes from pixel to pixel
IOU_ERROR = 1e-5  # torchmetrics sums IoU in float32


def expect(condition: bool, message: str) -> None:
    """MismatchError with ``message`` unless the condition holds."""
    if not condition:
        raise MismatchError(message)


def same_shape(ours: Tensor, theirs: Tensor, what: str) -> None:
    """MismatchError unless the shapes are equal."""
    expect(ours.shape == theirs.shape, f"{what}: shapes {tuple(ours.shape)} and {tuple(theirs.shape)}")


def equal(ours: Tensor, theirs: Tensor, what: str) -> None:
    """Every element, exactly."""
    same_shape(ours, theirs, what)
    wrong = int((ours != theirs).sum())
    expect(wrong == 0, f"{what}: {wrong} of {ours.numel()} elements differ")


def close(ours: Tensor, theirs: Tensor, what: str, tolerance: float = 1e-4) -> None:
    """Every element, up to ``tolerance`` of the largest."""
    same_shape(ours, theirs, what)
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
    owners = [(s.id, s.label, s.instance) for s in ours.segments]
    expected = [(number, label, instance) for number, label, _, instance in theirs.segments]
    expect(owners == expected, f"segments: {owners} and {expected}")


def same_masks(ours: MaskCrops, theirs: Bool[Tensor, "n h w"], things: Detections) -> None:
    """Pixel by pixel, but where the probability is within TIE of the threshold."""
    for k, (mask, other) in enumerate(zip(ours.dense(), theirs, strict=True)):
        wrong = mask != other
        if wrong.any():
            window, probs = stretch(things.soft[k].double(), things.boxes[k].double(), things.size)
            clear = torch.ones_like(wrong)
            clear[window] = (probs - 0.5).abs() > TIE
            expect(not (wrong & clear).any(), f"mask {k}: {int((wrong & clear).sum())} pixels differ")


def alike_masks(ours: MaskCrops, theirs: Float[Tensor, "n 1 h w"]) -> None:
    """Equal but within BORDER pixels of a mask's outline, and where the probability is nearly the threshold."""
    window, margin = 2 * BORDER + 1, 3 * BORDER
    for k, ((ys, xs), _) in enumerate(ours):
        # the end of a slice may lie outside, its start may not
        place = slice(max(ys.start - margin, 0), ys.stop + margin), slice(max(xs.start - margin, 0), xs.stop + margin)
        mask, probs = ours[[k]].dense()[0][place].float()[None], theirs[k, 0][place]
        other = probs > 0.5
        most = F.max_pool2d(mask, window, stride=1, padding=BORDER)[0] > 0
        least = -F.max_pool2d(-mask, window, stride=1, padding=BORDER)[0] > 0
        far = ((other < least) | (other > most)) & ((probs - 0.5).abs() > SHALLOW)
        expect(not far.any(), f"mask {k}: {int(far.sum())} pixels differ that are not at its border")
        outside = int((theirs[k, 0] > 0.5).sum()) - int(other.sum())
        expect(outside == 0, f"mask {k}: {outside} pixels far from its box")


def same_labels(
    ours: Int[Tensor, "h w"], theirs: Int[Tensor, "h w"], logits: Float[Tensor, "c h4 w4"], *sizes: tuple[int, int]
) -> None:
    """Pixel by pixel, but where the two best logits tie; ``sizes``: inside the padding, and of the map."""
    same_shape(ours, theirs, "label map")
    if (wrong := ours != theirs).any():
        apart = int((wrong & ~tied(logits, *sizes)).sum())
        expect(apart == 0, f"label map: {apart} pixels differ where the logits are no tie")


def tied(logits: Float[Tensor, "c h4 w4"], *sizes: tuple[int, int]) -> Bool[Tensor, "h w"]:
    """Pixels whose two best logits, in float64, are within TIE of each other, relative to the best."""
    full = full_logits(logits.double(), *sizes)
    best, winner = full.max(dim=0)
    second = full.scatter_(0, winner[None], -torch.inf).amax(dim=0)
    return best - second <= TIE * best.abs().clamp(min=1)


def same_counts(ours: Any, theirs: Iterable[Sequence[float]]) -> None:
    """tp, fp, fn of every category exactly, the IoU sums up to IOU_ERROR each; both as four sequences."""
    for name, mine, other in zip(("tp", "fp", "fn"), ours, theirs, strict=False):
        expect(list(mine) == list(other), f"{name} by category: {list(mine)} and {list(other)}")
    sums = [torch.as_tensor(list(values)[3], dtype=torch.float64) for values in (ours, theirs)]
    error = float((sums[0] - sums[1]).abs().max())
    expect(error <= IOU_ERROR, f"IoU sums differ by {error:.1e}")
