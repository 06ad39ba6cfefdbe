"""Annotated boxes and classes in place of the detector's: what a perfect one would be worth (BANet, Table 4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torchvision.ops import box_iou

from panoptic_occ.structures.sample import Batch
from panoptic_occ.thing.base import Classify, Rois

BOX_IOU = 0.5
"""IoU from which a detected box shows an annotated one (the paper does not say)."""


@dataclass(frozen=True)
class RoiOracle:
    """Changes what a thing branch has found before masks are made in it.

    ``boxes``: the annotated boxes replace the detected ones; the branch gives each its best class and score, and none
    is dropped.  ``classes``: a box takes the class of the annotated box that it is, or that it overlaps most, from
    ``BOX_IOU`` on; others keep their own.  Scores are always the branch's.
    """

    boxes: bool = False
    classes: bool = False

    @property
    def fixes_boxes(self) -> bool:
        """Annotated boxes are as good as they get."""
        return self.boxes

    def __call__(
        self, found: Sequence[Rois], features: dict[str, Tensor], batch: Batch, classify: Classify
    ) -> list[Rois]:
        """Regions of every image, ranked, in the network's frame."""
        annotated = annotated_boxes(batch)
        if self.boxes:
            found = classify(features, batch, annotated)
        changed = []
        for rois, boxes, target in zip(found, annotated, batch.targets, strict=True):
            if self.classes and len(boxes):
                iou, nearest = box_iou(rois.boxes, boxes).max(dim=1)
                labels = (
                    target.labels if self.boxes else torch.where(iou >= BOX_IOU, target.labels[nearest], rois.labels)
                )
                rois = Rois(rois.boxes, labels, rois.scores)
            changed.append(rois[torch.argsort(rois.scores, descending=True, stable=True)])
        return changed


def annotated_boxes(batch: Batch) -> list[Float[Tensor, "k 4"]]:
    """The annotated boxes of every image, from the original frame to the network's."""
    scaled = []
    for sample, (height, width) in zip(batch.samples, batch.sizes, strict=True):
        boxes = sample.annotations.boxes.float()
        scale = boxes.new_tensor([width / sample.original_size[1], height / sample.original_size[0]])
        scaled.append(boxes * scale.repeat(2))
    return scaled
