"""Panoptic maps, and how the literal PQ of the tests reads them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import torch

from panoptic_occ.structures.panoptic_map import PanopticMap, Segment

NUM = 4
"""Categories; the first two are things."""


def make_map(
    ids: Any, labels: Mapping[int, int], crowds: Collection[int] = (), areas: Mapping[int, int] | None = None
) -> PanopticMap:
    """A map from an array of ids and the label of every id, in segment order; areas are counted unless given."""
    ids = torch.from_numpy(np.array(ids, dtype=np.int64))
    count = {i: int((ids == i).sum()) for i in labels} | dict(areas or {})
    return PanopticMap(ids, tuple(Segment(i, label, label < 2, count[i], i in crowds) for i, label in labels.items()))


def infos(panoptic_map: PanopticMap) -> list[dict[str, Any]]:
    """The segments as the official JSON has them."""
    return [
        {"id": s.id, "category_id": s.label, "area": s.area, "iscrowd": int(s.iscrowd)} for s in panoptic_map.segments
    ]
