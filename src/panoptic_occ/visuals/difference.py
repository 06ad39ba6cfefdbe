"""The objects of several panoptic maps of one image, whose segment ids are arbitrary, and the pixels where two results
differ, judged by the ground truth."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int, UInt8

from panoptic_occ.ops.segment_runs import positions, run_starts
from panoptic_occ.structures.panoptic_map import PanopticMap

ObjectKey = tuple[int, int]
"""(contiguous label, number of the object within its class); stuff is number 0, a crowd region ``CROWD``."""

CROWD = -1
SAME, FIXED, BROKEN, NEITHER = range(4)


def segment_index(panoptic: PanopticMap) -> Int[np.ndarray, "h w"]:
    """Per pixel 1 + the position of its segment in ``panoptic.segments``; 0 for VOID and for ids without a segment."""
    ids = panoptic.ids.cpu().numpy()
    number = {segment.id: k for k, segment in reversed(list(enumerate(panoptic.segments, start=1)))} | {0: 0}
    starts = run_starts(ids.reshape(-1))  # a few per cent of the pixels
    ascending = sorted(number)
    place, listed = positions(ids.reshape(-1)[starts], np.array(ascending))
    of_run = np.array([number[value] for value in ascending])[place] * listed
    return np.repeat(of_run, np.diff(starts, append=ids.size)).reshape(ids.shape)


def link(maps: Sequence[PanopticMap]) -> list[list[ObjectKey]]:
    """Object of every segment of every map, in the order of its ``segments``; equal keys are the same object.

    The first map (the ground truth) numbers its things by segment order.  In a later map every thing is the object of
    its class that it overlaps most, each object once, largest overlaps first; one without overlap is a new object, to
    which things of the maps after it can be matched.  Maps of different sizes raise ValueError.
    """
    sizes = sorted({tuple(panoptic.ids.shape) for panoptic in maps})
    if len(sizes) > 1:
        raise ValueError(f"maps of one image must have one size, not {sizes}")
    indices = [segment_index(panoptic) for panoptic in maps]
    keys: list[list[ObjectKey]] = []
    fresh: Counter[int] = Counter()  # the next unused number of every class
    for k, panoptic in enumerate(maps):
        objects: dict[int, ObjectKey] = {
            j: (segment.label, CROWD if segment.iscrowd else 0)
            for j, segment in enumerate(panoptic.segments)
            if segment.iscrowd or not segment.isthing
        }
        for earlier in range(k):
            _match(indices[earlier], keys[earlier], indices[k], panoptic, objects)
        for j, segment in enumerate(panoptic.segments):
            if j not in objects:
                objects[j] = (segment.label, fresh[segment.label])
                fresh[segment.label] += 1
        keys.append([objects[j] for j in range(len(panoptic.segments))])
    return keys


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
    """Compares the objects (see ``link``) that two results put at every pixel; three maps of one size."""
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


def _match(
    earlier: Int[np.ndarray, "h w"],
    keys: Sequence[ObjectKey],
    later: Int[np.ndarray, "h w"],
    panoptic: PanopticMap,
    objects: dict[int, ObjectKey],
) -> None:
    """Adds to ``objects``, for segments of ``panoptic`` that have none, the ``keys`` of an earlier map, by overlap."""
    columns = len(panoptic.segments) + 1
    common = np.bincount((earlier * columns + later).reshape(-1), minlength=(len(keys) + 1) * columns)
    common = common.reshape(-1, columns)[1:, 1:]
    rows, cols = common.nonzero()
    taken = set(objects.values())
    for pair in np.argsort(-common[rows, cols], kind="stable"):
        key, j = keys[rows[pair]], int(cols[pair])
        if j in objects or key in taken or key[1] == CROWD or key[0] != panoptic.segments[j].label:
            continue
        objects[j] = key
        taken.add(key)
