"""The contract of a thing branch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from panoptic_occ.common.errors import ConfigError
from panoptic_occ.structures.instances import InstanceSet
from panoptic_occ.structures.sample import Batch, Features, Requires


@dataclass(frozen=True, eq=False)
class Rois:
    """Regions of one image that get a mask: boxes (N,4) xyxy in the frame of the network, contiguous labels, scores.

    ``matches``: in training, the index of the annotation of each region.
    """

    boxes: Float[Tensor, "n 4"]
    labels: Int[Tensor, " n"]
    scores: Float[Tensor, " n"]
    matches: Int[Tensor, " n"] | None = None

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, index: Tensor) -> Rois:
        """The regions at ``index``."""
        matches = None if self.matches is None else self.matches[index]
        return Rois(self.boxes[index], self.labels[index], self.scores[index], matches)


Soft = Float[Tensor, "n 28 28"]
"""Mask probabilities of regions inside their boxes."""
Pooled = Float[Tensor, "n c 14 14"]
"""RoIAlign features of regions."""
Classify = Callable[[Features, Batch, Sequence[Tensor]], list[Rois]]
"""From boxes of every image (network frame) to regions with the branch's classes and scores."""
Trainable = Sequence[Bool[Tensor, " k"]] | None
"""Of every image the annotations whose proposals train; None: all."""
Positives = list[tuple[InstanceSet, Int[Tensor, " n"]]]
"""Of every image the positive proposals, and the annotation that each matches."""


class RoiChange(Protocol):
    """Replaces the detected regions of every image before masks are made in them.

    ``fixes_boxes``: nothing may move the new boxes.
    """

    @property
    def fixes_boxes(self) -> bool: ...

    def __call__(
        self, detected: Sequence[Rois], features: Features, batch: Batch, classify: Classify, /
    ) -> list[Rois]: ...


def resized(boxes: Float[Tensor, "n 4"], size: tuple[int, int], new_size: tuple[int, int]) -> Float[Tensor, "n 4"]:
    """Boxes of an image of ``size`` (height, width), where the same image has ``new_size``."""
    return boxes * boxes.new_tensor([new_size[1] / size[1], new_size[0] / size[0]]).repeat(2)


class ThingBranch(nn.Module):
    """Base class of thing branches; ``requires`` names what the occlusion method reads beside masks and boxes."""

    oracle: RoiChange | None = None

    def losses(self, features: Features, batch: Batch) -> dict[str, Tensor]:
        """Named losses of the branch for a training batch; none of a branch without parameters.  NotImplementedError of
        one that has some: they would never be trained."""
        if next(self.parameters(), None) is None:
            return {}
        raise NotImplementedError(f"{type(self).__name__} has parameters to train and no losses(features, batch)")

    def detect(self, features: Features, batch: Batch, conf_thr: float, requires: Requires) -> list[InstanceSet]:
        """Detections with ``score >= conf_thr``, ranked, with masks in the frame of the original image."""
        raise NotImplementedError

    def positives(self, features: Features, batch: Batch, requires: Requires, trainable: Trainable = None) -> Positives:
        """Positive proposals of a training batch, masks in the network's frame."""
        raise NotImplementedError

    def use_oracle(self, oracle: RoiChange | None) -> None:
        """Lets ``oracle`` replace detected regions from now on; ConfigError for a branch that detects none."""
        if oracle is not None:
            raise ConfigError(
                f"oracle=[box,class]: {type(self).__name__} finds no boxes that annotated ones could replace; use "
                "thing=mask_rcnn, or leave box and class out"
            )
