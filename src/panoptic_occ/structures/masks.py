"""Binary masks of one image, stored as crops, because a detection's mask never leaves its box."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from panoptic_occ.common.errors import check_choice
from panoptic_occ.structures.dense import binary_masks

Window = tuple[slice, slice]
Significance = Literal["either", "directional", "both"]
"""Whose share of an overlap must be large: that of one of the two masks (the papers), of the row's mask (OCFusion's
code), or of each."""

PIXELS_AT_ONCE = 1 << 18
"""Of every mask, turned into float32 together: 100 MB for 100 masks, far below the 2^24 that float32 counts exactly."""


@dataclass(frozen=True, eq=False)
class MaskCrops:
    """N binary masks of one image of ``size`` (height, width).

    ``pixels`` holds the crops one after the other, row by row; ``windows[i]`` is (top, left, height, width) of crop i
    and lies inside the image.  ``windows`` stays on the CPU (it drives slicing), ``pixels`` lives on any device.

    >>> import torch
    >>> from panoptic_occ import MaskCrops
    >>> dense = torch.zeros(1, 4, 6, dtype=torch.bool)
    >>> dense[0, 1:3, 2:5] = True
    >>> masks = MaskCrops.from_dense(dense)
    >>> masks.windows.tolist(), masks.area.tolist()
    ([[1, 2, 2, 3]], [6])
    """

    pixels: Bool[Tensor, " p"]
    windows: Int[Tensor, "n 4"]
    size: tuple[int, int]

    @staticmethod
    def empty(size: tuple[int, int], device: torch.device | str = "cpu") -> MaskCrops:
        """No masks at all, for an image of ``size``."""
        pixels = torch.zeros(0, dtype=torch.bool, device=device)
        return MaskCrops(pixels, torch.zeros((0, 4), dtype=torch.int64), (size[0], size[1]))

    @staticmethod
    def from_crops(
        crops: Sequence[Bool[Tensor, "h w"]], corners: Sequence[tuple[int, int]], size: tuple[int, int]
    ) -> MaskCrops:
        """Masks from crops of 0 and 1 and their (top, left) corners; ValueError for others, and outside the image."""
        height, width = size
        rows = []
        for i, (crop, (top, left)) in enumerate(zip(crops, corners, strict=True)):
            h, w = crop.shape
            if top < 0 or left < 0 or top + h > height or left + w > width:
                raise ValueError(
                    f"crop {i} at (top {top}, left {left}) of {h}x{w} px leaves the {height}x{width} image"
                )
            rows.append((top, left, h, w))
        if not rows:
            return MaskCrops.empty(size)
        pixels = torch.cat([crop.reshape(-1) for crop in crops])
        if pixels.is_floating_point() and bool(((pixels != 0) & (pixels != 1)).any()):
            raise ValueError(f"crops are binary, these are soft ({pixels.dtype}); compare them first, as crop >= 0.5")
        return MaskCrops(pixels.bool(), torch.tensor(rows, dtype=torch.int64), (height, width))

    @staticmethod
    def from_dense(masks: Tensor | np.ndarray, threshold: float | None = None) -> MaskCrops:
        """Tight crops of dense masks; an empty mask becomes a crop of 0x0 px.

        ``masks``: (N, H, W) or (N, 1, H, W), bool, or integers of two values (0 and 1, or 0 and 255).  Soft masks
        (floats) need a ``threshold``, from which on a pixel belongs to its mask.  Raises ValueError for all others.

        >>> soft = torch.tensor([[[[0.0, 0.2, 0.7], [0.0, 0.1, 0.5]]]])  # as of torchvision's Mask R-CNN
        >>> MaskCrops.from_dense(soft, threshold=0.5).boxes.tolist()
        [[2.0, 0.0, 3.0, 2.0]]
        """
        masks = binary_masks(masks, threshold)
        size = (int(masks.shape[1]), int(masks.shape[2]))
        if len(masks) == 0:
            return MaskCrops.empty(size, masks.device)
        rows, columns = masks.any(dim=2).cpu(), masks.any(dim=1).cpu()
        windows = [(_span(row), _span(column)) for row, column in zip(rows, columns, strict=True)]
        crops = [mask[window] for mask, window in zip(masks, windows, strict=True)]
        return MaskCrops.from_crops(crops, [(ys.start, xs.start) for ys, xs in windows], size)

    def __len__(self) -> int:
        return len(self.windows)

    def __iter__(self) -> Iterator[tuple[Window, Bool[Tensor, "h w"]]]:
        """Pairs of (window, crop): ``dense[window] == crop`` for the dense form of the mask."""
        parts = self.pixels.split(self._lengths())
        for (top, left, height, width), part in zip(self.windows.tolist(), parts, strict=True):
            yield (slice(top, top + height), slice(left, left + width)), part.view(height, width)

    def arrays(self) -> list[Bool[np.ndarray, "h w"]]:
        """The crops as numpy arrays: views of masks on the CPU, copies of others."""
        # a call of numpy costs a third of torch's, which decides where there are many small crops
        pixels, start, crops = self.pixels.cpu().numpy(), 0, []
        for _, _, height, width in self.windows.tolist():
            crops.append(pixels[start : start + height * width].reshape(height, width))
            start += height * width
        return crops

    def __getitem__(self, index: Tensor | Sequence[int]) -> MaskCrops:
        """The masks at ``index`` (integers, or a bool tensor), in that order; a run of neighbours shares the pixels."""
        index = torch.as_tensor(index, device="cpu")
        index = index.nonzero().flatten() if index.dtype == torch.bool else index.long()
        windows, numbers, lengths = self.windows[index], index.tolist(), self._lengths()
        if not numbers:
            return MaskCrops.empty(self.size, self.pixels.device)
        first, stop = numbers[0], numbers[0] + len(numbers)
        if first >= 0 and numbers == list(range(first, stop)):
            start, length = sum(lengths[:first]), sum(lengths[first:stop])
            return MaskCrops(self.pixels[start : start + length], windows, self.size)
        parts = self.pixels.split(lengths)
        return MaskCrops(torch.cat([parts[i] for i in numbers]), windows, self.size)

    @property
    def boxes(self) -> Float[Tensor, "n 4"]:
        """The crops as boxes xyxy in px (float32), tight where the crops are; right and lower edges are exclusive."""
        top, left, height, width = self.windows.unbind(dim=1)
        return torch.stack([left, top, left + width, top + height], dim=1).float()

    @property
    def area(self) -> Int[Tensor, " n"]:
        """Number of pixels of every mask."""
        if self.pixels.device.type == "cpu":
            return torch.tensor([int(np.count_nonzero(crop)) for crop in self.arrays()], dtype=torch.int64)
        return _sums(self.pixels, self._lengths())

    def dense(self) -> Bool[Tensor, "n h w"]:
        """All masks as one dense tensor."""
        out = torch.zeros((len(self), *self.size), dtype=torch.bool, device=self.pixels.device)
        for mask, (window, crop) in zip(out, self, strict=True):
            mask[window] = crop
        return out

    def to(self, device: torch.device | str) -> MaskCrops:
        """The same masks with their pixels on ``device``."""
        return MaskCrops(self.pixels.to(device), self.windows, self.size)

    def _lengths(self) -> list[int]:
        """Pixels of every crop."""
        return (self.windows[:, 2] * self.windows[:, 3]).tolist()


def _span(line: Bool[Tensor, " k"]) -> slice:
    """From the first true entry to the last, or nothing."""
    places = line.nonzero()
    return slice(int(places[0]), int(places[-1]) + 1) if len(places) else slice(0, 0)


def _sums(pixels: Bool[Tensor, " p"], lengths: Sequence[int]) -> Int[Tensor, " n"]:
    """Number of true pixels in each of the parts of ``lengths``, as one running sum: what a GPU does at once."""
    ends = torch.tensor(lengths, dtype=torch.int64).cumsum(dim=0).to(pixels.device)
    up_to = torch.cat([ends.new_zeros(1), pixels.cumsum(dim=0)])[ends]
    return up_to.diff(prepend=up_to.new_zeros(1))


class Meetings(NamedTuple):
    """Pairs of crops whose windows overlap: ``first[p]``, ``second[p]``, and (top, left, bottom, right) of the common
    rectangle in pixels of the image."""

    first: Int[np.ndarray, " p"]
    second: Int[np.ndarray, " p"]
    rectangles: Int[np.ndarray, "p 4"]


def common_rectangles(first: MaskCrops, second: MaskCrops) -> tuple[Int[np.ndarray, "n k 2"], Int[np.ndarray, "n k 2"]]:
    """(top, left) and (bottom, right) of what the windows of every two crops share; nothing unless they rise."""
    near, far = first.windows.numpy()[:, None], second.windows.numpy()[None]
    low = np.maximum(near[..., :2], far[..., :2])
    return low, np.minimum(near[..., :2] + near[..., 2:], far[..., :2] + far[..., 2:])


def meetings(first: MaskCrops, second: MaskCrops, where: Bool[Tensor, "n k"] | None = None) -> Meetings:
    """Pairs of a crop of ``first`` and one of ``second`` (masks of one image) whose windows overlap, by rising index;
    ``where`` (on the CPU): only these pairs."""
    low, high = common_rectangles(first, second)
    meet = (high > low).all(axis=2)
    if where is not None:
        meet &= where.numpy()
    i, j = np.nonzero(meet)
    return Meetings(i, j, np.concatenate([low[i, j], high[i, j]], axis=1))


def intersections(first: MaskCrops, second: MaskCrops, where: Bool[Tensor, "n k"] | None = None) -> Int[Tensor, "n k"]:
    """Number of pixels that mask i of ``first`` shares with mask j of ``second``, both of one image.  ``where`` (on the
    CPU): only these pairs are counted, the others are 0.  Raises ValueError for different sizes."""
    if first.size != second.size:
        raise ValueError(f"masks of images of {first.size} and {second.size} px have no common pixels to count")
    if first.pixels.device.type != "cpu":
        product = _product(first, second)
        return product if where is None else product * where.to(product.device)
    pairs = meetings(first, second, where)
    corners = first.windows.numpy()[pairs.first, :2], second.windows.numpy()[pairs.second, :2]
    inside = [(pairs.rectangles - np.tile(corner, 2)).tolist() for corner in corners]
    ones, others = first.arrays(), second.arrays()
    counts = [
        int(np.count_nonzero(ones[i][a:c, b:d] & others[j][e:g, f:h]))
        for i, j, (a, b, c, d), (e, f, g, h) in zip(pairs.first.tolist(), pairs.second.tolist(), *inside, strict=True)
    ]
    common = np.zeros((len(first), len(second)), dtype=np.int64)
    common[pairs.first, pairs.second] = counts
    return torch.from_numpy(common)


def _product(first: MaskCrops, second: MaskCrops) -> Int[Tensor, "n k"]:
    """Intersections as a product of dense masks: on a GPU one such product is faster than a visit to every pair."""
    dense = [masks.dense().flatten(1).split(PIXELS_AT_ONCE, dim=1) for masks in (first, second)]
    common = torch.zeros((len(first), len(second)), dtype=torch.int64, device=first.pixels.device)
    with torch.autocast(common.device.type, enabled=False):  # sums in half precision are not exact
        for one, other in zip(*dense, strict=True):
            common += (one.float() @ other.float().T).long()
    return common


@dataclass(frozen=True, eq=False)
class PairStats:
    """Exact pixel counts of the masks of one image: ``area[i] = |M_i|``, ``inter[i, j] = |M_i & M_j|``.

    >>> import torch
    >>> from panoptic_occ import MaskCrops, PairStats
    >>> masks = MaskCrops.from_dense(torch.tensor([[[True, True, True, False]], [[False, False, True, True]]]))
    >>> stats = PairStats.of(masks)
    >>> stats.area.tolist(), stats.inter.tolist()
    ([3, 2], [[3, 1], [1, 2]])
    >>> stats.significant(0.5).tolist()
    [[False, True], [True, False]]
    """

    area: Int[Tensor, " n"]
    inter: Int[Tensor, "n n"]

    @staticmethod
    def of(masks: MaskCrops) -> PairStats:
        """Areas and pairwise intersections, counted only where the crops of two masks meet."""
        area, once = masks.area, torch.ones((len(masks), len(masks)), dtype=torch.bool).triu(diagonal=1)
        inter = intersections(masks, masks, once)
        return PairStats(area, inter + inter.T + torch.diag(area))

    def ratio(self) -> Tensor:
        """(N, N) float64: ``inter[i, j] / area[i]``, 0 for an empty mask; the diagonal is 0."""
        ratio = self.inter.double() / self.area.clamp(min=1).double()[:, None]
        return ratio.fill_diagonal_(0)

    def significant(self, sig_ratio: float, mode: Significance = "either", strict: bool = False) -> Bool[Tensor, "n n"]:
        """Pairs whose intersection is at least ``sig_ratio`` (OCFusion: rho) of a mask, with ``strict`` more than
        that.  Disjoint pairs and the diagonal are never significant.  Raises ConfigError for an unknown ``mode``."""
        check_choice("significance", mode, Significance)
        ratio = self.ratio()
        over = (ratio > sig_ratio) if strict else (ratio >= sig_ratio)
        over &= ratio > 0
        if mode == "directional":
            return over
        return over | over.T if mode == "either" else over & over.T
