"""The dictionary of torchvision's Mask R-CNN."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from panoptic_occ.structures.readers.detections import (
    Detections,
    Scores,
    crops_of,
    detections_of,
    entry,
    whole_numbers,
)
from panoptic_occ.structures.readers.labels import ClassTable

SOURCE = "torchvision's output"


def read_torchvision(
    output: Mapping[str, Any], table: ClassTable, scores: Scores | None, threshold: float, size: tuple[int, int] | None
) -> Detections:
    """``boxes``, ``labels``, ``scores`` and the soft ``masks`` (N, 1, H, W) of one image."""
    crops = crops_of(entry(output, "masks", SOURCE), SOURCE, threshold, size)
    labels = table.labels(whole_numbers(entry(output, "labels", SOURCE)), SOURCE, by_id=True)
    scores = output.get("scores") if scores is None else scores
    return detections_of(crops, scores, labels, SOURCE, entry(output, "boxes", SOURCE))
