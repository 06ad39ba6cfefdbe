"""Mask R-CNN (He et al. 2017) from torchvision's detection parts, as the thing branch of Panoptic FPN."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.mask_rcnn import MaskRCNNPredictor
from torchvision.models.detection.roi_heads import RoIHeads, fastrcnn_loss
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.ops import nms

from panoptic_occ.common.kinds import Scope
from panoptic_occ.structures.categories import Categories
from panoptic_occ.structures.instances import InstanceSet, by_score
from panoptic_occ.structures.sample import Batch, Features, Requires
from panoptic_occ.thing.base import Pooled, Positives, RoiChange, Rois, Soft, ThingBranch, Trainable, resized
from panoptic_occ.thing.mask_head import MaskNorm, mask_head, mask_loss
from panoptic_occ.thing.paste import paste_instances
from panoptic_occ.thing.pooling import PyramidRoIAlign

STRIDES = (4, 8, 16, 32, 64)
PROPOSAL_LEVELS = ("0", "1", "2", "3", "pool")


class ExactAnchors(AnchorGenerator):
    """Anchors in float32, whatever the features are in: bfloat16 counts pixels beyond 1024 in steps of eight."""

    def set_cell_anchors(self, dtype: torch.dtype, device: torch.device) -> None:
        """The shapes at the origin; the anchors of an image have their type."""
        super().set_cell_anchors(torch.float32, device)


class ExactRPNHead(RPNHead):
    """Objectness and box offsets in float32: what boxes are made of."""

    def forward(self, x: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """For every level (B, A, h, w) and (B, 4 A, h, w)."""
        logits, offsets = super().forward(x)
        return [part.float() for part in logits], [part.float() for part in offsets]


class MaskRCNN(ThingBranch):
    """RPN, box head and mask head on one feature pyramid; labels inside are contiguous + 1 (0 is background).

    ``anchor_scale``: anchor side in units of the level's stride (8 = 32..512 px, the usual for 800 px images).
    ``rpn_train``/``rpn_test``: proposals kept per level before NMS and per image after it.
    ``rois_per_image``: proposals sampled for the heads in training, ``positive_fraction`` of them positive.
    ``masks_per_image``: most positive proposals that train the mask head (None: all).
    ``mask_convs``, ``mask_norm``: see ``mask_head``.  ``hidden``: width of the box head, 4 ``in_channels`` by default.
    ``score_thr``, ``nms_thr``, ``max_detections``: lowest score, IoU of suppression within every class, or with
    ``class_agnostic_nms`` among all (UPSNet, BANet), and number of the detections of an image.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        categories: Categories,
        anchor_scale: float = 8,
        rpn_train: tuple[int, int] = (2000, 1000),
        rpn_test: Annotated[tuple[int, int], Scope.DETECTIONS] = (1000, 1000),
        rpn_batch: int = 256,
        rpn_nms_thr: float = 0.7,
        rois_per_image: int = 512,
        positive_fraction: float = 0.25,
        masks_per_image: int | None = None,
        mask_convs: int = 4,
        mask_norm: MaskNorm = None,
        hidden: int | None = None,
        score_thr: Annotated[float, Scope.DETECTIONS] = 0.05,
        nms_thr: Annotated[float, Scope.DETECTIONS] = 0.5,
        class_agnostic_nms: Annotated[bool, Scope.DETECTIONS] = False,
        max_detections: Annotated[int, Scope.DETECTIONS] = 100,
        sampling_ratio: int = 2,
        aligned: bool = True,
    ) -> None:
        super().__init__()
        classes = categories.num_things + 1
        hidden = 4 * in_channels if hidden is None else hidden
        sizes = tuple((round(anchor_scale * stride),) for stride in STRIDES)
        anchors = ExactAnchors(sizes, ((0.5, 1.0, 2.0),) * len(sizes))
        self.masks_per_image = masks_per_image
        self.class_agnostic_nms, self.nms_thr, self.max_detections = class_agnostic_nms, nms_thr, max_detections
        self.rpn = RegionProposalNetwork(
            anchors,
            ExactRPNHead(in_channels, anchors.num_anchors_per_location()[0]),
            fg_iou_thresh=0.7,
            bg_iou_thresh=0.3,
            batch_size_per_image=rpn_batch,
            positive_fraction=0.5,
            pre_nms_top_n={"training": rpn_train[0], "testing": rpn_test[0]},
            post_nms_top_n={"training": rpn_train[1], "testing": rpn_test[1]},
            nms_thresh=rpn_nms_thr,
        )
        self.roi_heads = RoIHeads(
            PyramidRoIAlign(7, sampling_ratio, aligned),
            TwoMLPHead(in_channels * 7**2, hidden),
            FastRCNNPredictor(hidden, classes),
            fg_iou_thresh=0.5,
            bg_iou_thresh=0.5,
            batch_size_per_image=rois_per_image,
            positive_fraction=positive_fraction,
            bbox_reg_weights=None,
            score_thresh=score_thr,
            nms_thresh=1.0 if class_agnostic_nms else nms_thr,  # then `find` suppresses
            detections_per_img=sys.maxsize if class_agnostic_nms else max_detections,
            mask_roi_pool=PyramidRoIAlign(14, sampling_ratio, aligned),
            mask_head=mask_head(in_channels, mask_convs, mask_norm),
            mask_predictor=MaskRCNNPredictor(in_channels, in_channels, classes),
        )
        predictor = self.roi_heads.box_predictor
        last = {predictor.cls_score: 0.01, predictor.bbox_pred: 0.001, self.roi_heads.mask_predictor[-1]: 0.001}
        initialise_box_head(self.roi_heads.box_head, last)

    def losses(self, features: Features, batch: Batch) -> dict[str, Tensor]:
        """rpn_cls, rpn_box, cls, box and mask losses (their sum is the L_i of Panoptic FPN)."""
        losses, rois = self.box_losses(features, batch)
        logits = self.mask_logits(self.mask_features(self.pool(features, rois)))
        return losses | {"mask": mask_loss(logits, rois, batch.targets)}

    def box_losses(self, features: Features, batch: Batch) -> tuple[dict[str, Tensor], list[Rois]]:
        """Losses of proposals and boxes, and the positive regions of every image that train the mask head."""
        heads, targets = self.roi_heads, self._torchvision_targets(batch)
        proposals, rpn = self._propose(features, batch, targets)
        losses = {"rpn_cls": rpn["loss_objectness"], "rpn_box": rpn["loss_rpn_box_reg"]}
        proposals, matches, labels, regression = heads.select_training_samples(proposals, targets)
        losses["cls"], losses["box"] = fastrcnn_loss(*self._box_outputs(features, proposals), labels, regression)
        positive = [self._mask_samples(label) for label in labels]
        return losses, [_rois(*parts) for parts in zip(proposals, labels, matches, positive, strict=True)]

    @torch.no_grad()
    def detect(self, features: Features, batch: Batch, conf_thr: float, requires: Requires) -> list[InstanceSet]:
        """Ranked detections with masks at original resolution; only those with ``score >= conf_thr`` get a mask."""
        rois = self.find(features, batch, conf_thr)
        soft, pooled = self._masks_in(features, rois)
        return self.placed(rois, soft, pooled, batch, requires)

    @torch.no_grad()
    def find(self, features: Features, batch: Batch, conf_thr: float) -> list[Rois]:
        """Detected boxes after NMS with ``score >= conf_thr``, ranked, or what the oracle replaces them by."""
        proposals, _ = self._propose(features, batch)
        outputs = (out.float() for out in self._box_outputs(features, proposals))
        results = self.roi_heads.postprocess_detections(*outputs, proposals, batch.sizes)
        detected = []
        for boxes, scores, labels in zip(*results, strict=True):
            if self.class_agnostic_nms:
                best = nms(boxes, scores, self.nms_thr)[: self.max_detections]
                boxes, scores, labels = boxes[best], scores[best], labels[best]
            order = by_score(scores)
            order = order[scores[order] >= conf_thr]
            detected.append(Rois(boxes[order], labels[order] - 1, scores[order]))
        return detected if self.oracle is None else self.oracle(detected, features, batch, self.classify)

    def use_oracle(self, oracle: RoiChange | None) -> None:
        """Lets ``oracle`` replace what ``find`` gives."""
        self.oracle = oracle

    @torch.no_grad()
    def classify(self, features: Features, batch: Batch, boxes: Sequence[Float[Tensor, "n 4"]]) -> list[Rois]:
        """The best thing class and its score for given boxes of every image (network frame); nothing is dropped."""
        logits, _ = self._box_outputs(features, boxes)
        scores, labels = logits.float().softmax(dim=1)[:, 1:].max(dim=1)
        counts = [len(b) for b in boxes]
        return list(map(Rois, boxes, labels.split(counts), scores.split(counts)))

    @torch.no_grad()
    def positives(self, features: Features, batch: Batch, requires: Requires, trainable: Trainable = None) -> Positives:
        """Sampled proposals with IoU >= 0.5 to an annotation (annotated boxes included), with the mask of its class."""
        rois = self.positive_rois(features, batch, trainable)
        soft, pooled = self._masks_in(features, rois)
        return self.matched(rois, soft, pooled, batch, requires)

    @torch.no_grad()
    def positive_rois(self, features: Features, batch: Batch, trainable: Trainable = None) -> list[Rois]:
        """The sampled positive proposals of every image with their annotations; sampling ignores ``trainable``."""
        proposals, _ = self._propose(features, batch)
        targets = self._torchvision_targets(batch)
        proposals, matches, labels, _ = self.roi_heads.select_training_samples(proposals, targets)
        positive = [label > 0 for label in labels]
        for keep, want, match in zip(positive, trainable or (), matches, strict=trainable is not None):
            keep &= F.pad(want.to(keep.device), (0, 1))[match]  # an image without annotations matches its first one
        return [
            _rois(boxes, label, match, keep.nonzero().flatten())
            for boxes, label, match, keep in zip(proposals, labels, matches, positive, strict=True)
        ]

    def pool(self, features: Features, rois: Sequence[Rois]) -> Pooled:
        """RoIAlign of all regions for the mask head, image after image."""
        return self.roi_heads.mask_roi_pool(features, [r.boxes for r in rois])

    def mask_features(self, pooled: Pooled) -> Pooled:
        """The convolutions of the mask head."""
        return self.roi_heads.mask_head(pooled)

    def mask_logits(self, mask_features: Pooled) -> Float[Tensor, "n k 28 28"]:
        """Deconvolution and predictor of the mask head; channel c + 1 is the contiguous label c."""
        return self.roi_heads.mask_predictor(mask_features)

    @staticmethod
    def soft_masks(logits: Float[Tensor, "n k 28 28"], rois: Sequence[Rois]) -> Soft:
        """Mask probabilities (float32) of every region for its class."""
        labels = torch.cat([r.labels for r in rois])
        return logits[torch.arange(len(logits), device=logits.device), labels + 1].float().sigmoid()

    @staticmethod
    def placed(rois: Sequence[Rois], soft: Soft, pooled: Pooled, batch: Batch, requires: Requires) -> list[InstanceSet]:
        """Detections of every image with boxes and masks in the frame of the original image."""
        sizes = [sample.original_size for sample in batch.samples]
        frames = zip(rois, batch.sizes, sizes, strict=True)
        in_original = [replace(r, boxes=resized(r.boxes, inside, size)) for r, inside, size in frames]
        return paste_instances(in_original, soft, pooled, sizes, requires)

    @staticmethod
    def matched(rois: Sequence[Rois], soft: Soft, pooled: Pooled, batch: Batch, requires: Requires) -> Positives:
        """Positive proposals of every image with masks in the network's frame, and their annotations."""
        matches = [r.matches for r in rois if r.matches is not None]
        return list(zip(paste_instances(rois, soft, pooled, batch.sizes, requires), matches, strict=True))

    def _propose(self, features: Features, batch: Batch, targets: Any = None) -> Any:
        """Proposals of every image, and their losses if there are targets; maps that a branch added are not read."""
        levels = {name: features[name] for name in PROPOSAL_LEVELS}
        return self.rpn(ImageList(batch.images, list(batch.sizes)), levels, targets)

    def _box_outputs(self, features: Features, boxes: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Logits of the classes and offsets of the boxes, for boxes of every image."""
        heads = self.roi_heads
        return heads.box_predictor(heads.box_head(heads.box_roi_pool(features, boxes)))

    def _masks_in(self, features: Features, rois: Sequence[Rois]) -> tuple[Soft, Pooled]:
        """Soft masks of all regions, and the RoI features that they are read from."""
        pooled = self.pool(features, rois)
        return self.soft_masks(self.mask_logits(self.mask_features(pooled)), rois), pooled

    def _mask_samples(self, labels: Int[Tensor, " n"]) -> Int[Tensor, " m"]:
        """Positive proposals that train the mask head, at most ``masks_per_image`` of them, drawn at random."""
        positive = (labels > 0).nonzero().flatten()
        if self.masks_per_image is None or len(positive) <= self.masks_per_image:
            return positive
        return positive[torch.randperm(len(positive), device=positive.device)[: self.masks_per_image]]

    @staticmethod
    def _torchvision_targets(batch: Batch) -> list[dict[str, Tensor]]:
        """Boxes and 1-based labels; ``masks`` is there for torchvision's own check only."""
        return [{"boxes": t.boxes.float(), "labels": t.labels + 1, "masks": t.masks.windows} for t in batch.targets]


def initialise_box_head(head: TwoMLPHead, last: Mapping[nn.Linear | nn.Conv2d, float]) -> None:
    """As in detectron2: two layers kaiming_uniform(a=1), the ``last`` ones normal of their deviation, biases 0."""
    for layer in (head.fc6, head.fc7):
        nn.init.kaiming_uniform_(layer.weight, a=1)
    for layer, deviation in last.items():
        nn.init.normal_(layer.weight, std=deviation)
    for layer in (head.fc6, head.fc7, *last):
        nn.init.zeros_(layer.bias)


def _rois(boxes: Tensor, labels: Tensor, matches: Tensor, keep: Tensor) -> Rois:
    """Regions from torchvision's sampled proposals, whose labels begin at 1; the score of a training region is 1."""
    scores = torch.ones(len(keep), device=boxes.device)
    return Rois(boxes[keep], labels[keep] - 1, scores, matches[keep])
