"""Masks, scores and labels of any origin."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from panoptic_occ.structures.readers.detections import Detections, Scores, crops_of, detections_of
from panoptic_occ.structures.readers.labels import ClassTable, ForeignClass


def read_masks(
    masks: Any,
    scores: Scores,
    labels: ForeignClass | Iterable[ForeignClass],
    table: ClassTable,
    boxes: Any = None,
    threshold: float | None = None,
    size: tuple[int, int] | None = None,
) -> Detections:
    """See ``InstanceSet.from_masks``."""
    source = "masks"
    crops = crops_of(masks, source, threshold, size)
    every = [labels] * len(crops) if isinstance(labels, int | str) else _listed(labels)
    return detections_of(crops, scores, table.labels(every, source), source, boxes)


def _listed(labels: Any) -> list[ForeignClass]:
    """Plain numbers or names of a list, a tensor or an array."""
    return [each.item() if hasattr(each, "item") else each for each in labels]
