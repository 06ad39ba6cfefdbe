"""detectron2's ``Instances`` of one image, or the dictionary that holds them."""

from __future__ import annotations

from typing import Any

from panoptic_occ.structures.readers.detections import (
    Detections,
    Scores,
    attribute,
    crops_of,
    detections_of,
    entry,
    whole_numbers,
)
from panoptic_occ.structures.readers.labels import ClassTable

SOURCE = "detectron2's instances"


def read_detectron2(instances: Any, table: ClassTable, scores: Scores | None, threshold: float) -> Detections:
    """``image_size``, ``pred_masks`` (N, H, W), ``pred_boxes.tensor``, ``scores`` and ``pred_classes``."""
    if hasattr(instances, "keys"):
        instances = entry(instances, "instances", SOURCE)
    height, width = attribute(instances, "image_size", SOURCE)
    masks = attribute(instances, "pred_masks", SOURCE)
    crops = crops_of(getattr(masks, "tensor", masks), SOURCE, threshold, (int(height), int(width)))
    labels = table.labels(whole_numbers(attribute(instances, "pred_classes", SOURCE)), SOURCE)
    boxes = attribute(attribute(instances, "pred_boxes", SOURCE), "tensor", SOURCE)
    return detections_of(crops, getattr(instances, "scores", None) if scores is None else scores, labels, SOURCE, boxes)
