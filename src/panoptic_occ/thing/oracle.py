"""Annotated boxes and classes in place of the detector's: what a perfect one would be worth (BANet, Table 4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torchvision.ops import box_iou

from panoptic_occ.structures.instances import by_score
from panoptic_occ.structures.sample import Batch, Features
from panoptic_occ.thing.base import Classify, Rois, resized

BOX_IOU = 0.5
"""IoU from which a detected box shows an annotated one (the paper does not say)."""


@dataclass(frozen=True)
class RoiOracle:
    """Replaces detected boxes, classes, or both by annotated ones; scores are always the branch's.

    ``boxes``: the branch gives each annotated box its best class and score, and none is dropped.
    ``classes``: a box takes the class of the annotated box that it is, or that it overlaps most, if by ``BOX_IOU``;
    other boxes keep their class.
    """

    boxes: bool = False
    classes: bool = False

    @property
    def fixes_boxes(self) -> bool:
        """Annotated boxes are as good as they get."""
        return self.boxes

    def __call__(self, detected: Sequence[Rois], features: Features, batch: Batch, classify: Classify) -> list[Rois]:
        """Regions of every image, ranked, in the network's frame."""
        annotated = annotated_boxes(batch)
        if self.boxes:
            detected = classify(features, batch, annotated)
        changed = []
        for rois, boxes, target in zip(detected, annotated, batch.targets, strict=True):
            if self.classes and len(boxes):
                iou, nearest = box_iou(rois.boxes, boxes).max(dim=1)
                annotated_labels = torch.where(iou >= BOX_IOU, target.labels[nearest], rois.labels)
                rois = Rois(rois.boxes, target.labels if self.boxes else annotated_labels, rois.scores)
            changed.append(rois[by_score(rois.scores)])
        return changed


def annotated_boxes(batch: Batch) -> list[Float[Tensor, "k 4"]]:
    """The annotated boxes of every image, from the original frame to the network's."""
    samples = zip(batch.samples, batch.sizes, strict=True)
    return [resized(sample.annotations.boxes.float(), sample.original_size, size) for sample, size in samples]
