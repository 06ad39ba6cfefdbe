"""Who owns which pixel of the growing map: what the fusion loop counts and paints."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from panoptic_occ.masks import MaskCrops, Window, meetings

Counts = dict[int, int]
"""Pixels by instance, by rising index; instances without any are left out."""


class Canvas:
    """The map of owners: 0 nobody, k the k-th painted instance, in the smallest integers that can tell them apart.

    ``masks`` of one image; ``claims``: the part of it that each instance may take (None: all of it).  The loop is many
    small steps one after the other, so the canvas lives on the CPU; masks of another device are copied there once.
    Pixels are counted and painted only where two crops meet.
    """

    def __init__(self, masks: MaskCrops, claims: MaskCrops | None) -> None:
        self.owner = np.zeros(masks.size, dtype=np.min_scalar_type(len(masks)))
        self.number: dict[int, int] = {}
        """Of every painted instance, in the order of painting."""
        self.masks = _Layer(masks, masks if claims is None else claims)
        self.claims = self.masks if claims is None else _Layer(claims, claims)

    def held(self, i: int) -> Counts:
        """Pixels of mask i that each painted instance owns."""
        return self._owned(self.masks, i)

    def contested(self, i: int) -> Counts:
        """Pixels of claim i that each painted instance owns."""
        return self._owned(self.claims, i)

    def paint(self, i: int, over: Collection[int]) -> None:
        """Gives instance i the pixels of its claim that nobody or an instance of ``over`` owns."""
        for j, view, part in self._shared(self.claims, i, over):
            view *= ~((view == self.number[j]) & part)
        self.number[i] = len(self.number) + 1
        window, crop = self.claims[i]
        view = self.owner[window]
        # arithmetic on bytes: ten times faster than assignment under a mask
        view += ((view == 0) & crop).view(np.uint8) * view.dtype.type(self.number[i])

    def ids(self, kept: Sequence[int]) -> Int[Tensor, "h w"]:
        """The map with the ``kept`` instances, given in the order of painting, numbered from 1 and the others gone."""
        new_number = {i: number for number, i in enumerate(kept, start=1)}
        for i, number in self.number.items():  # new numbers are never larger, so none is taken for an old one
            surplus = number - new_number.get(i, 0)
            if surplus:
                view = self.owner[self.claims[i][0]]
                view -= (view == number).view(np.uint8) * view.dtype.type(surplus)
        return torch.from_numpy(self.owner)

    def _owned(self, layer: _Layer, i: int) -> Counts:
        shared = self._shared(layer, i, self.number)
        counts = {j: int(np.count_nonzero((view == self.number[j]) & part)) for j, view, part in shared}
        return {j: pixels for j, pixels in counts.items() if pixels}

    def _shared(
        self, layer: _Layer, i: int, others: Collection[int]
    ) -> Iterator[tuple[int, Int[np.ndarray, "y x"], Bool[np.ndarray, "y x"]]]:
        """For each of ``others`` that crop i meets: its index, the part of the map where they do, and of the crop."""
        (rows, columns), crop = layer[i]
        for j, (top, left, bottom, right) in layer.met(i, others):
            part = crop[top - rows.start : bottom - rows.start, left - columns.start : right - columns.start]
            yield j, self.owner[top:bottom, left:right], part


class _Layer:
    """Crops as arrays, and the crops of other instances in ``owners`` that each of them meets."""

    def __init__(self, crops: MaskCrops, owners: MaskCrops) -> None:
        self.arrays = crops.arrays()
        self.windows: list[list[int]] = crops.windows.tolist()
        self.pairs = meetings(crops, owners)
        self.start = np.searchsorted(self.pairs.first, np.arange(len(crops) + 1)).tolist()

    def met(self, i: int, others: Collection[int]) -> Iterator[tuple[int, list[int]]]:
        """Those of ``others`` that crop i meets, by rising index, and their common rectangles."""
        here = slice(self.start[i], self.start[i + 1])  # only these become Python numbers: all at once would be many
        chosen = [(k, j) for k, j in enumerate(self.pairs.second[here].tolist()) if j != i and j in others]
        rectangles = self.pairs.rectangles[here][[k for k, _ in chosen]].tolist()
        yield from zip((j for _, j in chosen), rectangles, strict=True)

    def __getitem__(self, i: int) -> tuple[Window, Bool[np.ndarray, "h w"]]:
        top, left, height, width = self.windows[i]
        return (slice(top, top + height), slice(left, left + width)), self.arrays[i]
