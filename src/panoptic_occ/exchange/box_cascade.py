"""Boxes that move from one iteration of IBPP to the next: "the RoIs of the previous iteration" (REFINE, before Eq. 2)
read as in Cascade R-CNN (Cai and Vasconcelos, CVPR 2018, section 4), whose cap on the iterations the paper takes over.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection.faster_rcnn import TwoMLPHead
from torchvision.ops import clip_boxes_to_image

from panoptic_occ.structures.sample import Features
from panoptic_occ.structures.target import Target
from panoptic_occ.thing.base import Rois
from panoptic_occ.thing.mask_rcnn import MaskRCNN, initialise_box_head

SMALLEST = 1.0
"""Pixels: a box that would become thinner stays where it was, because nothing can be read in it."""


class BoxCascade(nn.Module):
    """A regression of boxes before every iteration but the first, on the features of the pyramid in them.

    ``heads``: number of its heads, T - 1, or 0 to regress with the thing branch's box head each time (shared weights).
    A region keeps its class, which selects one of the four offsets per class, and its score.
    """

    def __init__(self, in_channels: int, classes: int, heads: int) -> None:
        super().__init__()
        self.heads = nn.ModuleList(BoxRegression(in_channels, classes) for _ in range(heads))

    def offsets(self, thing: MaskRCNN, features: Features, t: int, rois: Sequence[Rois]) -> Float[Tensor, "n 4"]:
        """How the boxes of all images should move before iteration ``t`` (from 1), in the units of the box coder."""
        pooled = thing.roi_heads.box_roi_pool(features, [r.boxes for r in rois])
        if len(self.heads) > 0:
            every = self.heads[t - 1](pooled)
        else:
            every = thing.roi_heads.box_predictor.bbox_pred(thing.roi_heads.box_head(pooled))
        labels = torch.cat([r.labels for r in rois])
        return every.unflatten(1, (-1, 4))[torch.arange(len(labels), device=labels.device), labels + 1].float()

    @staticmethod
    @torch.no_grad()
    def moved(
        thing: MaskRCNN, rois: Sequence[Rois], offsets: Float[Tensor, "n 4"], sizes: Sequence[tuple[int, int]]
    ) -> list[Rois]:
        """The regions after ``offsets``, inside their images of ``sizes`` (height, width); no gradient passes."""
        after = []
        for r, part, size in zip(rois, offsets.detach().split([len(r) for r in rois]), sizes, strict=True):
            boxes = clip_boxes_to_image(thing.roi_heads.box_coder.decode_single(part, r.boxes), size)
            thin = (boxes[:, 2:] - boxes[:, :2] < SMALLEST).any(dim=1, keepdim=True)
            after.append(replace(r, boxes=torch.where(thin, r.boxes, boxes)))
        return after

    @staticmethod
    def loss(
        thing: MaskRCNN, rois: Sequence[Rois], offsets: Float[Tensor, "n 4"], targets: Sequence[Target]
    ) -> Float[Tensor, ""]:
        """Smooth L1 of the offsets against the annotated boxes of positive regions, weighed as the box loss of a
        detector with the same regions and its share of negative ones; 0 with a graph without any."""
        if len(offsets) == 0:
            return offsets.sum() * 0
        annotated = [target.boxes[r.matches].float() for r, target in zip(rois, targets, strict=True)]
        truth = torch.cat(thing.roi_heads.box_coder.encode(annotated, [r.boxes for r in rois]))
        share: float = thing.roi_heads.fg_bg_sampler.positive_fraction
        return F.smooth_l1_loss(offsets, truth, beta=1 / 9, reduction="sum") * share / len(offsets)


class BoxRegression(nn.Sequential):
    """Two fully connected layers and four offsets for every class, initialised as the thing branch's box head."""

    def __init__(self, in_channels: int, classes: int) -> None:
        hidden = 4 * in_channels
        head, last = TwoMLPHead(in_channels * 7**2, hidden), nn.Linear(hidden, 4 * classes)
        initialise_box_head(head, {last: 0.001})
        super().__init__(head, last)
