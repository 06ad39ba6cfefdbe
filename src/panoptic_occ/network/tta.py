"""Test-time augmentation: several views of an image, averaged (OCFusion, section 4, "multi-scale testing").

In every view the network makes masks, in the boxes of the plain one, and semantic logits.  Both are averaged in the
frame of the original image, masks as probabilities.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from panoptic_occ.common.errors import ConfigError
from panoptic_occ.exchange.base import Outputs
from panoptic_occ.structures.instances import InstanceSet
from panoptic_occ.structures.sample import Batch, Features, Sample
from panoptic_occ.stuff.base import semantic_map
from panoptic_occ.thing.base import Classify, Rois, resized
from panoptic_occ.thing.paste import paste_masks

REQUIRES = frozenset({"soft", "semantic_logits"})


@dataclass(frozen=True)
class View:
    """The image at ``scale`` times the usual size, mirrored or not."""

    scale: float
    flip: bool

    def show(self, sample: Sample) -> Sample:
        """``sample`` as this view sees it, resized from the original pixels."""
        height, width = (max(1, round(self.scale * edge)) for edge in sample.image.shape[1:])
        image = tv.resize(sample.original_image, [height, width], antialias=True)
        return replace(sample, image=tv.horizontal_flip(image) if self.flip else image)

    def place(self, boxes: Float[Tensor, "n 4"], original: tuple[int, int], size: tuple[int, int]) -> Tensor:
        """Boxes of the original frame in the frame of this view, which has ``size`` (height, width)."""
        boxes = resized(boxes, original, size)
        if self.flip:
            boxes = torch.stack([size[1] - boxes[:, 2], boxes[:, 1], size[1] - boxes[:, 0], boxes[:, 3]], dim=1)
        return boxes

    def undo(self, values: Tensor | None) -> Tensor | None:
        """``values`` of the view, with columns as in the original."""
        return values.flip(-1) if self.flip and values is not None else values


@dataclass(frozen=True)
class TestTimeAugmentation:
    """All combinations of ``scales`` (1.0 is the usual size) and, with ``flip``, their mirror images."""

    __test__ = False  # pytest would take it for a test

    scales: Sequence[float] = (1.0,)
    flip: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "scales", tuple(self.scales))
        if 1.0 not in self.scales or any(not 0.1 <= scale <= 10 for scale in self.scales):
            raise ConfigError(
                f"tta.scales={list(self.scales)}: must contain 1.0, the size at which boxes are found, and only "
                "factors from 0.1 to 10"
            )

    @property
    def views(self) -> tuple[View, ...]:
        """The views beside the plain one."""
        every = (View(float(scale), flip) for flip in (False, True)[: 1 + self.flip] for scale in self.scales)
        return tuple(view for view in every if view != View(1.0, False))


@dataclass(frozen=True)
class FixedRois:
    """Replaces detected regions by those of ``instances`` (original frame), as ``view`` shows them."""

    view: View
    instances: Sequence[InstanceSet]
    fixes_boxes: ClassVar[bool] = True

    def __call__(self, detected: Sequence[Rois], features: Features, batch: Batch, classify: Classify) -> list[Rois]:
        """The regions of every image in the frame of the view, in their order."""
        return [
            Rois(self.view.place(plain.boxes, sample.original_size, size), plain.labels, plain.scores)
            for plain, sample, size in zip(self.instances, batch.samples, batch.sizes, strict=True)
        ]


def averaged(plain: Outputs, others: Sequence[tuple[View, Outputs]], num_things: int) -> Outputs:
    """The instances of the plain view with masks, and maps with labels and logits, averaged over all views."""
    instances, maps = [], []
    for k, (boxed, semantic) in enumerate(zip(*plain, strict=True)):
        softs = [boxed.soft, *(view.undo(detections[k].soft) for view, (detections, _) in others)]
        soft = _mean(softs, "soft masks")
        masks = paste_masks(soft, boxed.boxes, (int(boxed.masks.size[0]), int(boxed.masks.size[1])))
        instances.append(replace(boxed, soft=soft, masks=masks))
        logits = [semantic.logits, *(view.undo(outputs[k].logits) for view, (_, outputs) in others)]
        maps.append(semantic_map(_mean(logits, "semantic logits"), semantic.first_label, num_things))
    return instances, maps


def _mean(values: Sequence[Tensor | None], what: str) -> Tensor:
    present = [value for value in values if value is not None]
    if len(present) < len(values):
        raise ConfigError(
            f"tta averages {what}, and this base has none; choose thing=mask_rcnn and a stuff branch with a network, "
            "or tta=none"
        )
    return torch.stack(present).mean(dim=0)
