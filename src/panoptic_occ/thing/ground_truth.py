"""An oracle base: the annotations themselves as detections, so that only the order and the fusion are measured."""

from __future__ import annotations

import torch

from panoptic_occ.common.errors import ConfigError
from panoptic_occ.structures.categories import Categories
from panoptic_occ.structures.instances import InstanceSet
from panoptic_occ.structures.sample import Batch, Features, Requires
from panoptic_occ.thing.base import Positives, RoiChange, ThingBranch, Trainable


class GroundTruthThings(ThingBranch):
    """Boxes, labels and full masks of the annotations, all with score 1, in an order shuffled by the image id, so that
    the annotation file decides no ties."""

    def __init__(self, *, in_channels: int, categories: Categories) -> None:
        super().__init__()

    def detect(self, features: Features, batch: Batch, conf_thr: float, requires: Requires) -> list[InstanceSet]:
        """The annotated instances of every image; soft masks and RoI features do not exist here."""
        detections = []
        for sample, target in zip(batch.samples, batch.targets, strict=True):
            shuffle = torch.Generator().manual_seed(sample.image_id)
            order = torch.randperm(len(target.labels), generator=shuffle).to(target.labels.device)
            scores = torch.ones(len(order), device=target.labels.device)
            detections.append(InstanceSet(target.masks[order], target.boxes[order], scores, target.labels[order]))
        return detections

    def positives(self, features: Features, batch: Batch, requires: Requires, trainable: Trainable = None) -> Positives:
        """ConfigError: there are no proposals."""
        raise ConfigError(
            "thing=ground_truth has no proposals, from which this occlusion method learns; train it on a network "
            "(thing=mask_rcnn), or choose one that learns from annotations alone (occlusion=oanet)"
        )

    def use_oracle(self, oracle: RoiChange | None) -> None:
        """Nothing changes: boxes and classes are the annotated ones already."""
