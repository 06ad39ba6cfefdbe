"""``supervision.Detections`` of one image."""

from __future__ import annotations

from typing import Any

import numpy as np

from panoptic_occ.common.errors import DataError
from panoptic_occ.structures.readers.detections import (
    Detections,
    Scores,
    attribute,
    crops_of,
    detections_of,
    whole_numbers,
)
from panoptic_occ.structures.readers.labels import ClassTable, ForeignClass

SOURCE = "supervision's detections"


def read_supervision(
    detections: Any, table: ClassTable, scores: Scores | None, size: tuple[int, int] | None
) -> Detections:
    """``mask`` (N, H, W), also a compact one, ``xyxy``, ``confidence``, and ``data["class_name"]`` or ``class_id``."""
    boxes = np.asarray(attribute(detections, "xyxy", SOURCE))
    mask = attribute(detections, "mask", SOURCE)
    if mask is None and len(boxes):
        raise DataError(f"{SOURCE}: there are {len(boxes)} boxes and no mask; take them from a segmentation model")
    crops = crops_of([] if mask is None else np.asarray(mask), SOURCE, None, size)
    labels = table.labels(_classes(detections, table, len(crops)), SOURCE)
    return detections_of(crops, detections.confidence if scores is None else scores, labels, SOURCE, boxes)


def _classes(detections: Any, table: ClassTable, count: int) -> list[ForeignClass]:
    """By the names that ``names=`` gives to numbers, else those that the detections carry, else numbers."""
    names = detections.data.get("class_name")
    if names is not None and table.categories is not None and table.names is None:
        return [str(name) for name in names]
    if detections.class_id is None and count:
        raise DataError(f"{SOURCE}: there is no class_id; set it, for one class as np.zeros(len(detections), int)")
    return [] if detections.class_id is None else list(whole_numbers(detections.class_id))
