"""Connected parts of a label map, computed on runs of equal labels along the rows instead of pixels."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Int, Int64, Shaped
from torch import Tensor

from panoptic_occ.structures.masks import Window

Numbers = Int64[np.ndarray, " s"]


@dataclass(frozen=True, eq=False)
class Components:
    """R components of a map of ``size`` (height, width), as ``s`` runs of pixels, row by row.

    ``starts``: first pixel of every run in the flattened map; ``owners``: its component, -1 where there is none.
    ``labels``: of every component, on the device of the map.
    """

    starts: Numbers
    owners: Numbers
    labels: Int[Tensor, " r"]
    size: tuple[int, int]

    @property
    def lengths(self) -> Numbers:
        """Pixels of every run."""
        return np.diff(self.starts, append=self.size[0] * self.size[1])

    @property
    def areas(self) -> Int64[np.ndarray, " r"]:
        """Pixels of every component."""
        return np.bincount(self.owners + 1, weights=self.lengths, minlength=len(self.labels) + 1)[1:].astype(np.int64)

    @cached_property
    def numbers(self) -> Int[Tensor, "h w"]:
        """Component of every pixel, -1 where there is none."""
        return torch.from_numpy(self._to_pixels(self.owners)).to(self.labels.device)

    @cached_property
    def windows(self) -> tuple[Window, ...]:
        """The bounding window of every component."""
        from scipy.ndimage import find_objects  # here: few fusions need it

        return tuple(find_objects(self._to_pixels(self.owners + 1)))

    def spread(self, values: Shaped[np.ndarray, " r"]) -> Shaped[np.ndarray, "h w"]:
        """To every pixel the value of its component, 0 where there is none."""
        return self._to_pixels(np.append(values, np.zeros_like(values, shape=1))[self.owners])

    def _to_pixels(self, of_run: Shaped[np.ndarray, " s"]) -> Shaped[np.ndarray, "h w"]:
        return np.repeat(of_run, self.lengths).reshape(self.size)


def components(labels: Int[Tensor, "h w"]) -> Components:
    """8-connected components of equal labels; negative labels belong to none.  Numbered from 0 by ascending label, then
    by first pixel, row by row: a function of the map alone, so that numbers can be stored."""
    array = labels.cpu().numpy()
    height, width = array.shape
    begins = np.ones(array.shape, dtype=bool)
    begins[:, 1:] = array[:, 1:] != array[:, :-1]
    starts = np.flatnonzero(begins)
    label = array.ravel()[starts]
    inside = np.flatnonzero(label >= 0)
    stops = np.append(starts, array.size)[inside + 1]
    connected = _connected_runs(starts[inside], stops, label[inside], width)
    _, first, part = np.unique(connected, return_index=True, return_inverse=True)
    ranking = np.lexsort((first, label[inside][first]))
    owners = np.full(len(starts), -1)
    owners[inside] = np.argsort(ranking)[part]
    of_part = torch.from_numpy(label[inside][first][ranking].astype(np.int64)).to(labels.device)
    return Components(starts, owners, of_part, (height, width))


def _connected_runs(starts: Numbers, stops: Numbers, label: Int[np.ndarray, " s"], width: int) -> Int[np.ndarray, " s"]:
    """A number for every run, the same for runs of equal ``label`` that touch, also by a corner."""
    gap = 2 * (starts // width)  # two pixels more between rows: the end of one does not touch the start of the next
    low, high, row = starts + gap, stops + gap, width + 2
    first = np.searchsorted(high, low - row, side="left")  # the runs of the row above that touch each run
    touching = np.searchsorted(low, high - row, side="right") - first
    below = np.repeat(np.arange(len(starts)), touching)
    above = np.arange(len(below)) + np.repeat(first - np.cumsum(touching) + touching, touching)
    same = label[below] == label[above]
    # here: they take as long to load as all of the fusion, and few fusions need them
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    edges = coo_array((np.ones(np.count_nonzero(same), dtype=bool), (below[same], above[same])), (len(starts),) * 2)
    return connected_components(edges, directed=False)[1]
