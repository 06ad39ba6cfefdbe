"""Pixels where two results for one image differ, judged by the ground truth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8

from panoptic_occ.structures.panoptic_map import PanopticMap
from panoptic_occ.visuals.linking import CROWD, link, segment_index

SAME, FIXED, BROKEN, NEITHER = range(4)


@dataclass(frozen=True, eq=False)
class Difference:
    """Where result b differs from result a.

    ``kind`` per pixel: ``SAME``; ``FIXED`` (b gives the ground truth's owner, a did not); ``BROKEN`` (the reverse);
    ``NEITHER`` (different, and both wrong or the ground truth is VOID or a crowd region and does not tell).
    """

    kind: UInt8[np.ndarray, "h w"]
    fixed: int
    broken: int
    neither: int

    @property
    def pixels(self) -> int:
        """Number of differing pixels."""
        return self.fixed + self.broken + self.neither


def difference(prediction_a: PanopticMap, prediction_b: PanopticMap, target: PanopticMap) -> Difference:
    """Compares the objects (see ``linking.link``) that two results put at every pixel; three maps of one size."""
    maps = (target, prediction_a, prediction_b)
    linked = link(maps)
    # Objects as small integers: 0 is VOID, so that two VOID pixels are the same and a VOID target has no owner.
    numbers = {key: n for n, key in enumerate(dict.fromkeys(key for keys in linked for key in keys), start=1)}
    owner, a, b = (
        np.array([0, *(numbers[key] for key in keys)]).take(segment_index(panoptic))
        for keys, panoptic in zip(linked, maps, strict=True)
    )
    judged = np.array([False, *(key[1] != CROWD for key in numbers)]).take(owner)
    differ = a != b
    kind = np.where(differ, NEITHER, SAME).astype(np.uint8)
    kind[differ & judged & (b == owner)] = FIXED
    kind[differ & judged & (a == owner)] = BROKEN
    counts = np.bincount(kind.reshape(-1), minlength=4)
    return Difference(kind, int(counts[FIXED]), int(counts[BROKEN]), int(counts[NEITHER]))
