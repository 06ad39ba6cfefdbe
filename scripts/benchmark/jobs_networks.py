"""Jobs with networks: the pair head, and a whole inference.

Ours, with OCFusion, and torchvision's Mask R-CNN have the same parts up to the mask head, so one's random weights fit
the other and both find the same boxes (checked).  Untrained networks find nothing: the batch norms' statistics come
from the image, and the classifier is stretched until about 15 boxes score 0.5 or more, as in an image of COCO.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.models.detection import MaskRCNN, maskrcnn_resnet50_fpn
from torchvision.ops import box_iou

from panoptic_occ.fusion.engine import FusionPolicy, fuse
from panoptic_occ.network.panoptic_fpn import PanopticFPN
from panoptic_occ.occlusion.heads.roi_head import PairHead
from panoptic_occ.occlusion.ocfusion import OCFusion
from panoptic_occ.structures.base_output import BaseOutput
from panoptic_occ.structures.instances import InstanceSet
from panoptic_occ.structures.panoptic_map import PanopticMap
from panoptic_occ.structures.sample import Sample
from panoptic_occ.thing.mask_rcnn import MaskRCNN as ThingBranch
from scripts.benchmark import reference
from scripts.benchmark.checks import close, equal, expect, same_map
from scripts.benchmark.inputs import NUM_THINGS, Size, categories, smooth
from scripts.benchmark.measure import Contest, Job, StandIn
from scripts.suite import build_model

SIZE: Size = (800, 1066)
CONF_THR = 0.5
CONFIDENT = 15  # of 100 detections in an image of COCO about as many score 0.5 or more
SHARPNESS = 4.0  # standard deviation of the class logits
MASK_LOGIT = 2.0  # masks fill their boxes, as those of things mostly do
WORDS = (
    "preset=coco", "method=ocfusion", "data.root=none",
    "backbone.weights=null", "backbone.norm=batch", "backbone.frozen_stages=0",  # random weights need statistics
    "thing.aligned=false",  # torchvision's convention, so that both see the same
    "channels_last=true",
)  # fmt: skip
POLICY = FusionPolicy(CONF_THR, min_visible=0.5)
SIG_RATIO = 0.2
NO_SLOWER = 0.95  # where nothing can be shared, ours and the plain head do the same; 5 % are noise
PARTNER_IOU, PARTNERS = 0.9, 0.8


def jobs() -> list[Job]:
    """The networks come last: they take longest."""
    heads = {"64 pairs of 12": (12, 64), "1 pair of 2": (2, 1), "16 pairs of 6": (6, 16), "64 pairs of 64": (64, 64)}
    return [
        *(Job("pair_head", "OCFusion pair head", about, partial(pair_head, *n), turns=2) for about, n in heads.items()),
        Job("inference", "inference, ResNet-50, stuff, order and fusion included", "800x1066", inference, turns=1),
    ]


def pair_head(n: int, pairs: int) -> Contest:
    """The head of the paper on the first pairs of ``n`` instances, or on a ring of them; 64 of 12 must be faster."""
    torch.manual_seed(0)
    head, x = PairHead(257, 512, 1024).eval(), torch.randn(n, 257, 14, 14)
    ring = torch.stack([torch.arange(n), (torch.arange(n) + 1) % n], dim=1)
    selected = ring if pairs == n else torch.tril_indices(n, n, offset=-1).T[:pairs].contiguous()
    plain = torch.no_grad()(partial(reference.pair_logits, head, x, selected))
    check = partial(close, what="logits")
    target = 1.2 if n == 12 else NO_SLOWER
    return Contest(torch.no_grad()(partial(head, x, selected)), [StandIn("plain head", plain, check, target)])


def inference() -> Contest:
    """Image in, panoptic map out; torchvision's ends with boxes and masks: as released of everything that scores 0.05
    or more (at most 100), with ``box_score_thresh=0.5`` of the same as ours."""
    ours, theirs, sample = networks()

    @torch.no_grad()
    def panoptic() -> tuple[BaseOutput, PanopticMap]:
        (output,) = ours.base_outputs([sample], CONF_THR, ours.occlusion.requires)
        relation = ours.occlusion(output.instances, output.stats)
        return output, fuse(output.instances, output.stats, relation, output.semantic.labels, POLICY)

    @torch.no_grad()
    def detect(score_thr: float) -> dict[str, Tensor]:
        theirs.roi_heads.score_thresh = score_thr
        boxes: dict[str, Tensor] = theirs([sample.image / 255])[0]
        return boxes

    def check(result: tuple[BaseOutput, PanopticMap], boxes: dict[str, Tensor]) -> None:
        same_detections(result[0].instances, boxes)
        literally_fused(ours, *result)

    name = "torchvision maskrcnn_resnet50_fpn"
    every = StandIn(f"{name}, up to 100 masks", partial(detect, 0.05), check, 1.0)
    same = StandIn(f"{name}, same masks as ours", partial(detect, CONF_THR), check, 1.0)
    return Contest(panoptic, [every, same])


def same_detections(ours: InstanceSet, theirs: dict[str, Tensor]) -> None:
    """Nearly all confident boxes of either have a partner of the same class; where two nearly tie, the suppression of
    one by the other follows the last bit."""
    confident = theirs["scores"] >= CONF_THR
    overlap = box_iou(ours.boxes, theirs["boxes"][confident])
    partner = (overlap >= PARTNER_IOU) & (ours.labels[:, None] + 1 == theirs["labels"][confident][None, :])
    for side, matched in (("ours", partner.any(dim=1)), ("torchvision's", partner.any(dim=0))):
        count, total = int(matched.sum()), len(matched)
        expect(total > 0 and count / total >= PARTNERS, f"{count} of {total} detections of {side} have a partner")


@torch.no_grad()
def literally_fused(model: PanopticFPN, output: BaseOutput, result: PanopticMap) -> None:
    """The map is what the plain head and Algorithm 1 make of the same detections."""
    instances, dense, occlusion = output.instances, output.instances.masks.dense(), model.occlusion
    assert isinstance(occlusion, OCFusion) and instances.soft is not None and instances.roi_features is not None
    equal(output.stats.inter, reference.pair_counts(dense).long(), "pairs")
    pairs = output.stats.significant(SIG_RATIO).tril(-1)
    above = torch.zeros_like(pairs)
    if pairs.any():
        joined = torch.cat([nn.functional.max_pool2d(instances.soft[:, None], 2), instances.roi_features], dim=1)
        above[pairs] = reference.pair_logits(occlusion.head, joined, pairs.nonzero()) > 0
    thresholds = SIG_RATIO, 0.5, int(POLICY.stuff_area)
    same_map(result, reference.fuse_by_occlusion(dense, instances.labels, above, output.semantic.labels, *thresholds))


@torch.no_grad()
def networks() -> tuple[PanopticFPN, MaskRCNN, Sample]:
    """Ours and torchvision's, in evaluation mode, and the image they were set up for."""
    rng = np.random.default_rng(0)
    fields = 128 + 60 * smooth(rng, 3, (9, 12), SIZE) + 20 * smooth(rng, 3, (200, 260), SIZE)
    sample = Sample(fields.clamp(0, 255).to(torch.uint8), 1, "generated", SIZE)
    ours = build_model(WORDS, categories()).eval()
    for norm in (module for module in ours.backbone.modules() if isinstance(module, nn.BatchNorm2d)):
        norm.train().momentum = 1.0
    ours.backbone(ours.batch([sample]).images)
    ours.eval()
    thing = ours.thing
    assert isinstance(thing, ThingBranch)
    _sharpen(ours, thing, sample)
    theirs = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=NUM_THINGS + 1).eval()
    theirs.backbone.load_state_dict(ours.backbone.state_dict())
    theirs.rpn.load_state_dict(thing.rpn.state_dict())
    theirs.roi_heads.load_state_dict(thing.roi_heads.state_dict())
    return ours, theirs, sample


def _sharpen(model: PanopticFPN, thing: ThingBranch, sample: Sample) -> None:
    """Sets the last layers of the heads; the bias of the background decides how many boxes are confident."""
    heads, batch = thing.roi_heads, model.batch([sample])
    seen: dict[str, Any] = {}
    hooks = (
        thing.rpn.register_forward_hook(lambda module, inputs, outputs: seen.update(boxes=outputs[0])),
        heads.box_predictor.register_forward_pre_hook(lambda module, inputs: seen.update(hidden=inputs[0])),
    )
    thing.find(model.backbone(batch.images), batch, CONF_THR)
    for hook in hooks:
        hook.remove()
    boxes, hidden, classify = seen["boxes"], seen["hidden"], heads.box_predictor.cls_score
    raw = hidden @ classify.weight.T
    scale = SHARPNESS / raw.std(dim=0).mean()
    classify.weight.mul_(scale)
    classify.bias.copy_(-raw.mean(dim=0) * scale)
    heads.mask_predictor.mask_fcn_logits.weight.mul_(100)
    heads.mask_predictor.mask_fcn_logits.bias.fill_(MASK_LOGIT)
    low, high = 0.0, 40.0
    regression = heads.box_predictor.bbox_pred(hidden)
    for _ in range(20):
        classify.bias[0] = (low + high) / 2
        scores = heads.postprocess_detections(classify(hidden), regression, boxes, batch.sizes)[1][0]
        low, high = ((low + high) / 2, high) if int((scores >= CONF_THR).sum()) > CONFIDENT else (low, (low + high) / 2)
