"""Panoptic maps as the literal PQ of the tests reads them."""

from __future__ import annotations

from typing import Any

from panoptic_occ.structures.panoptic_map import PanopticMap

NUM = 4
"""Categories; the first two are things."""


def infos(panoptic_map: PanopticMap) -> list[dict[str, Any]]:
    """The segments as the official JSON has them."""
    return [
        {"id": s.id, "category_id": s.label, "area": s.area, "iscrowd": int(s.iscrowd)} for s in panoptic_map.segments
    ]
