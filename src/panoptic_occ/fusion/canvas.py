"""Who owns which pixel of the growing map: what the fusion loop counts and paints."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from panoptic_occ.structures.masks import MaskCrops, PairStats, Window, meetings

Counts = dict[int, int]
"""Pixels by instance; instances without any are left out."""


class Canvas:
    """The map of owners: 0 nobody, k the k-th painted instance, in the smallest integers that can tell them apart.

    ``masks`` of one image and their ``stats``; ``claims``: what each instance may take (None: all of its mask).  The
    loop is many small steps one after the other, so the canvas lives on the CPU; masks of another device are
    copied there once.  Pixels are counted and painted only where two masks have common ones.
    """

    def __init__(self, masks: MaskCrops, stats: PairStats, claims: MaskCrops | None) -> None:
        self.owner = np.zeros(masks.size, dtype=np.min_scalar_type(len(masks)))
        self.number: dict[int, int] = {}
        """Of every painted instance, in the order of painting."""
        self.area: list[int] = stats.area.tolist()
        self.inter = stats.inter.cpu().numpy()
        self.owned = [0] * len(masks)
        """Pixels of every instance by now."""
        self.painted, self.whole = np.zeros((2, len(masks)), dtype=bool)
        """Which instances own pixels or did once, and which of them own their whole mask."""
        self.within = claims is None or (
            torch.equal(claims.windows, masks.windows) and not bool((claims.pixels & ~masks.pixels).any())
        )
        """Whether no claim leaves its mask."""
        meet = torch.from_numpy((self.inter > 0) if self.within else np.ones_like(self.inter, bool))
        meet.fill_diagonal_(False)
        self.masks = _Layer(masks, masks if claims is None else claims, meet)
        self.claims = self.masks if claims is None else _Layer(claims, claims, meet)

    def held(self, i: int) -> Counts:
        """Pixels of mask i that each painted instance owns."""
        # one that owns its whole mask owns all that the two masks share, and that has been counted
        shared = self.inter[i] * self.whole
        whole = shared.nonzero()[0]
        counts = dict(zip(whole.tolist(), shared[whole].tolist(), strict=True))
        return counts | self._owned(self.masks, i, self.painted & ~self.whole)

    def contested(self, i: int) -> Counts:
        """Pixels of claim i that each painted instance owns."""
        return self._owned(self.claims, i, self.painted)

    def paint(self, i: int, gain: int, won: Counts) -> None:
        """Gives instance i the ``gain`` pixels of its claim that nobody owns or that the instances of ``won`` do."""
        if won:
            losers = np.zeros_like(self.painted)
            losers[list(won)] = True
            for j, view, part in self._shared(self.claims, i, losers):
                view *= ~((view == self.number[j]) & part)
                self.owned[j] -= won[j]
            self.whole &= ~losers
        self.owned[i], self.number[i] = gain, len(self.number) + 1
        self.painted[i], self.whole[i] = True, self.within and gain == self.area[i]
        window, crop = self.claims[i]
        # on a copy, because numpy is slow over the short rows of a window; in arithmetic, because it is under a mask
        view = self.owner[window].copy()
        free = view == 0
        free &= crop
        view += free.view(np.uint8) * view.dtype.type(self.number[i])
        self.owner[window] = view

    def ids(self, kept: Sequence[int]) -> Int[Tensor, "h w"]:
        """The map of the ``kept`` instances alone, numbered from 1 in their order, that of painting."""
        new_number = {i: number for number, i in enumerate(kept, start=1)}
        for i, number in self.number.items():  # new numbers are never larger, so none is taken for an old one
            surplus = number - new_number.get(i, 0)
            if surplus:
                view = self.owner[self.claims[i][0]]
                view -= (view == number).view(np.uint8) * view.dtype.type(surplus)
        return torch.from_numpy(self.owner)

    def _owned(self, layer: _Layer, i: int, others: Bool[np.ndarray, " n"]) -> Counts:
        shared = self._shared(layer, i, others)
        counts = {j: int(np.count_nonzero((view == self.number[j]) & part)) for j, view, part in shared}
        return {j: pixels for j, pixels in counts.items() if pixels}

    def _shared(
        self, layer: _Layer, i: int, others: Bool[np.ndarray, " n"]
    ) -> Iterator[tuple[int, Int[np.ndarray, "y x"], Bool[np.ndarray, "y x"]]]:
        """For each of ``others`` that crop i meets: its index, the part of the map where they do, and of the crop."""
        (rows, columns), crop = layer[i]
        for j, (top, left, bottom, right) in layer.met(i, others):
            part = crop[top - rows.start : bottom - rows.start, left - columns.start : right - columns.start]
            yield j, self.owner[top:bottom, left:right], part


class _Layer:
    """Crops as arrays, and the crops in ``owners`` that each of them meets, among the pairs of ``meet``."""

    def __init__(self, crops: MaskCrops, owners: MaskCrops, meet: Bool[Tensor, "n n"]) -> None:
        self.arrays = crops.arrays()
        self.windows: list[list[int]] = crops.windows.tolist()
        self.pairs = meetings(crops, owners, meet)
        self.start = np.searchsorted(self.pairs.first, np.arange(len(crops) + 1)).tolist()

    def met(self, i: int, others: Bool[np.ndarray, " n"]) -> Iterator[tuple[int, list[int]]]:
        """Those of ``others`` that crop i meets, and their common rectangles."""
        here = slice(self.start[i], self.start[i + 1])
        near = self.pairs.second[here]
        places = others[near].nonzero()[0]  # only these become Python numbers: all of them would be many
        return zip(near[places].tolist(), self.pairs.rectangles[here][places].tolist(), strict=True)

    def __getitem__(self, i: int) -> tuple[Window, Bool[np.ndarray, "h w"]]:
        top, left, height, width = self.windows[i]
        return (slice(top, top + height), slice(left, left + width)), self.arrays[i]
