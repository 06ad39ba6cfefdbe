"""Binary masks of one image, stored as crops: a detection's mask never leaves its box.

Everything downstream (areas, intersections, fusion) reads the crops; dense (N, H, W) maps are made only on request.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

Window = tuple[slice, slice]


@dataclass(frozen=True, eq=False)
class MaskCrops:
    """N binary masks of one image of ``size`` (height, width).

    ``pixels`` holds the crops one after the other, row by row; ``windows[i]`` is (top, left, height, width) of crop i
    and lies inside the image.  ``windows`` stays on the CPU (it drives slicing), ``pixels`` lives on any device.
    """

    pixels: Bool[Tensor, " p"]
    windows: Int[Tensor, "n 4"]
    size: tuple[int, int]

    @staticmethod
    def empty(size: tuple[int, int], device: torch.device | str = "cpu") -> MaskCrops:
        """No masks at all, for an image of ``size``."""
        return MaskCrops(
            torch.zeros(0, dtype=torch.bool, device=device), torch.zeros((0, 4), dtype=torch.int64), (size[0], size[1])
        )

    @staticmethod
    def from_crops(
        crops: Sequence[Bool[Tensor, "h w"]], corners: Sequence[tuple[int, int]], size: tuple[int, int]
    ) -> MaskCrops:
        """Masks from crops and their (top, left) corners; every crop must lie inside the image."""
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
        return MaskCrops(pixels.bool(), torch.tensor(rows, dtype=torch.int64), (height, width))

    @staticmethod
    def from_dense(masks: Bool[Tensor, "n h w"]) -> MaskCrops:
        """Tight crops of dense masks; an empty mask becomes a crop of 0x0 px."""
        size = (int(masks.shape[1]), int(masks.shape[2]))
        masks = masks.bool()
        crops, corners = [], []
        rows, columns = masks.any(dim=2).cpu(), masks.any(dim=1).cpu()
        for mask, row, column in zip(masks, rows, columns, strict=True):
            ys, xs = row.nonzero(), column.nonzero()
            if len(ys) == 0:
                crops.append(mask[:0, :0])
                corners.append((0, 0))
                continue
            top, bottom, left, right = int(ys[0]), int(ys[-1]) + 1, int(xs[0]), int(xs[-1]) + 1
            crops.append(mask[top:bottom, left:right])
            corners.append((top, left))
        if not crops:
            return MaskCrops.empty(size, masks.device)
        return MaskCrops.from_crops(crops, corners, size)

    def __len__(self) -> int:
        return len(self.windows)

    def __iter__(self) -> Iterator[tuple[Window, Bool[Tensor, "h w"]]]:
        """Pairs of (window, crop): ``dense[window] == crop`` for the dense form of the mask."""
        start = 0
        for top, left, height, width in self.windows.tolist():
            crop = self.pixels[start : start + height * width].view(height, width)
            start += height * width
            yield (slice(top, top + height), slice(left, left + width)), crop

    def __getitem__(self, index: Tensor | Sequence[int]) -> MaskCrops:
        """The masks at ``index`` (integers, or a bool tensor), in that order."""
        index = torch.as_tensor(index, device="cpu")
        chosen = (index.nonzero().flatten() if index.dtype == torch.bool else index.long()).tolist()
        crops = [crop for _, crop in self]
        if not chosen:
            return MaskCrops.empty(self.size, self.pixels.device)
        return MaskCrops(torch.cat([crops[i].reshape(-1) for i in chosen]), self.windows[chosen], self.size)

    @property
    def area(self) -> Int[Tensor, " n"]:
        """Number of pixels of every mask."""
        sums = [crop.sum() for _, crop in self]
        return torch.stack(sums) if sums else torch.zeros(0, dtype=torch.int64, device=self.pixels.device)

    def dense(self) -> Bool[Tensor, "n h w"]:
        """All masks as one dense tensor."""
        out = torch.zeros((len(self), *self.size), dtype=torch.bool, device=self.pixels.device)
        for mask, (window, crop) in zip(out, self, strict=True):
            mask[window] = crop
        return out

    def to(self, device: torch.device | str) -> MaskCrops:
        """The same masks with their pixels on ``device``."""
        return MaskCrops(self.pixels.to(device), self.windows, self.size)


def intersections(first: MaskCrops, second: MaskCrops, where: Bool[Tensor, "n k"] | None = None) -> Int[Tensor, "n k"]:
    """Number of pixels that mask i of ``first`` shares with mask j of ``second``, both of one image.

    Counted only where the two crops meet, and only where ``where`` (on the CPU) asks for it; 0 elsewhere.
    """
    if first.size != second.size:
        raise ValueError(f"masks of images of {first.size} and {second.size} px have no common pixels to count")
    corners = [torch.cat([m.windows[:, :2], m.windows[:, :2] + m.windows[:, 2:]], dim=1) for m in (first, second)]
    low = torch.maximum(corners[0][:, None, :2], corners[1][None, :, :2])  # top, left of the common rectangle
    high = torch.minimum(corners[0][:, None, 2:], corners[1][None, :, 2:])  # bottom, right
    meet = (high > low).all(dim=2)
    if where is not None:
        meet &= where
    items = list(first), list(second)
    common = torch.zeros(meet.shape, dtype=torch.int64, device=first.pixels.device)
    for i, j in meet.nonzero().tolist():
        (top, left), (bottom, right) = low[i, j].tolist(), high[i, j].tolist()
        parts = []
        for (ys, xs), crop in (items[0][i], items[1][j]):
            parts.append(crop[top - ys.start : bottom - ys.start, left - xs.start : right - xs.start])
        common[i, j] = (parts[0] & parts[1]).sum()
    return common


@dataclass(frozen=True, eq=False)
class PairStats:
    """Exact pixel counts of the masks of one image: ``area[i] = |M_i|``, ``inter[i, j] = |M_i & M_j|``."""

    area: Int[Tensor, " n"]
    inter: Int[Tensor, "n n"]

    @staticmethod
    def of(masks: MaskCrops) -> PairStats:
        """Areas and pairwise intersections, counted only where the crops of two masks meet."""
        area = masks.area
        once = torch.ones((len(masks), len(masks)), dtype=torch.bool).triu(diagonal=1)
        above_diagonal = intersections(masks, masks, once)
        inter = above_diagonal + above_diagonal.T + torch.diag(area)
        return PairStats(area, inter)

    def ratio(self) -> Tensor:
        """(N, N) float64: ``inter[i, j] / area[i]``, 0 for an empty mask; the diagonal is 0."""
        ratio = self.inter.double() / self.area.clamp(min=1).double()[:, None]
        return ratio.fill_diagonal_(0)

    def significant(self, sig_ratio: float, mode: str = "either", strict: bool = False) -> Bool[Tensor, "n n"]:
        """Pairs whose intersection is a large enough share of a mask (OCFusion: rho); never the diagonal.

        ``either``: of one of the two (the papers); ``directional``: of the row's mask only (OCFusion's code);
        ``both``: of each.  Disjoint pairs are never significant.  ``strict`` compares with > instead of >=.
        """
        ratio = self.ratio()
        over = (ratio > sig_ratio) if strict else (ratio >= sig_ratio)
        over &= ratio > 0
        if mode == "either":
            return over | over.T
        if mode == "directional":
            return over
        if mode == "both":
            return over & over.T
        raise ValueError(f"significance mode '{mode}' is unknown; allowed: either, directional, both")
