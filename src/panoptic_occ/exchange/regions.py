"""Regions that read each other's predictions: those that get masks and those that the canvas shows, together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from jaxtyping import Bool
from torch import Tensor

from panoptic_occ.thing.base import Rois


class Regions(NamedTuple):
    """Regions that get masks and regions that the canvas shows, as one sequence per image.

    ``masked``, ``on_canvas``: which of the joined regions of all images are which.
    """

    joined: list[Rois]
    masked: Bool[Tensor, " n"]
    on_canvas: Bool[Tensor, " n"]
    rois: list[Rois]
    shown: list[Rois]

    @staticmethod
    def of(rois: Sequence[Rois], shown: Sequence[Rois]) -> Regions:
        """Both, one after the other, or the same ones once; joined regions have no annotations."""
        if shown is rois:
            every = torch.ones(sum(map(len, rois)), dtype=torch.bool)
            return Regions(list(rois), every, every, list(rois), list(rois))
        joined = [
            Rois(torch.cat([r.boxes, s.boxes]), torch.cat([r.labels, s.labels]), torch.cat([r.scores, s.scores]))
            for r, s in zip(rois, shown, strict=True)
        ]
        masked = torch.cat([torch.arange(len(j)) < len(r) for j, r in zip(joined, rois, strict=True)])
        return Regions(joined, masked, ~masked, list(rois), list(shown))

    def at(self, moved: Sequence[Rois]) -> Regions:
        """The same regions in the boxes of ``moved``, those of ``joined`` after a move."""
        if self.on_canvas is self.masked:
            return self._replace(joined=list(moved), rois=list(moved), shown=list(moved))
        pairs = list(zip(self.rois, moved, strict=True))
        rois = [replace(r, boxes=m.boxes[: len(r)]) for r, m in pairs]
        shown = [replace(s, boxes=m.boxes[len(r) :]) for s, (r, m) in zip(self.shown, pairs, strict=True)]
        return self._replace(joined=list(moved), rois=rois, shown=shown)
