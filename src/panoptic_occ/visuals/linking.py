"""The same object in several panoptic maps of one image: segment ids are arbitrary, overlap is not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from panoptic_occ.ops.segment_runs import positions, run_starts
from panoptic_occ.structures.panoptic_map import PanopticMap

ObjectKey = tuple[int, int]
"""(contiguous label, number of the object within its class); stuff is number 0, a crowd region ``CROWD``."""

CROWD = -1


def segment_index(panoptic: PanopticMap) -> Int[np.ndarray, "h w"]:
    """Per pixel 1 + the position of its segment in ``panoptic.segments``; 0 for VOID and for ids without a segment."""
    ids = panoptic.ids.cpu().numpy()
    number = {segment.id: k for k, segment in reversed(list(enumerate(panoptic.segments, start=1)))} | {0: 0}
    starts = run_starts(ids.reshape(-1))  # a few per cent of the pixels
    known = sorted(number)
    place, listed = positions(ids.reshape(-1)[starts], np.array(known))
    of_run = np.array([number[value] for value in known])[place] * listed
    return np.repeat(of_run, np.diff(starts, append=ids.size)).reshape(ids.shape)


def link(maps: Sequence[PanopticMap]) -> list[list[ObjectKey]]:
    """Object of every segment of every map, in the order of its ``segments``; equal keys are the same object.

    The first map (the ground truth) numbers its things by segment order.  A later map hands every thing the object of
    the same class that it overlaps most, each object once, largest overlaps first; what no earlier map contains becomes
    a new object, which the maps after it may match.  Maps of different sizes raise ValueError.
    """
    sizes = sorted({tuple(panoptic.ids.shape) for panoptic in maps})
    if len(sizes) > 1:
        raise ValueError(f"maps of one image must have one size, not {sizes}")
    indices = [segment_index(panoptic) for panoptic in maps]
    keys: list[list[ObjectKey]] = []
    fresh: Counter[int] = Counter()  # the next unused number of every class
    for k, panoptic in enumerate(maps):
        found: dict[int, ObjectKey] = {}
        for j, segment in enumerate(panoptic.segments):
            if segment.iscrowd:
                found[j] = (segment.label, CROWD)
            elif not segment.isthing:
                found[j] = (segment.label, 0)
        for earlier in range(k):
            _match(indices[earlier], keys[earlier], indices[k], panoptic, found)
        for j, segment in enumerate(panoptic.segments):
            if j not in found:
                found[j] = (segment.label, fresh[segment.label])
                fresh[segment.label] += 1
        keys.append([found[j] for j in range(len(panoptic.segments))])
    return keys


def _match(
    earlier: Int[np.ndarray, "h w"],
    objects: Sequence[ObjectKey],
    later: Int[np.ndarray, "h w"],
    panoptic: PanopticMap,
    found: dict[int, ObjectKey],
) -> None:
    """Adds to ``found`` the objects of an earlier map that segments of ``panoptic`` without one overlap most."""
    columns = len(panoptic.segments) + 1
    common = np.bincount((earlier * columns + later).reshape(-1), minlength=(len(objects) + 1) * columns)
    common = common.reshape(-1, columns)[1:, 1:]
    rows, cols = common.nonzero()
    taken = set(found.values())
    for at in np.argsort(-common[rows, cols], kind="stable"):
        key, j = objects[rows[at]], int(cols[at])
        if j in found or key in taken or key[1] == CROWD or key[0] != panoptic.segments[j].label:
            continue
        found[j] = key
        taken.add(key)
