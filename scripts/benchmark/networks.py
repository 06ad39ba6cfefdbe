"""Networks of the benchmark: Panoptic FPN with OCFusion beside torchvision's Mask R-CNN, with the same weights.

Both are a ResNet-50 with the same pyramid, proposal network, box head and mask head, so one's weights fit the other and
both find the same boxes (checked).  Untrained networks find nothing; so that an image looks like one of COCO's, the
statistics of the batch norms are taken from it, and the classifier is stretched until about 15 boxes score 0.5 or
more and some 50 others 0.05 or more.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torchvision.models.detection import MaskRCNN, maskrcnn_resnet50_fpn

from panoptic_occ.config.compose import compose
from panoptic_occ.network.panoptic_fpn import PanopticFPN
from panoptic_occ.runs.plan import build_model
from panoptic_occ.structures.sample import Sample
from panoptic_occ.thing.mask_rcnn import MaskRCNN as ThingBranch
from scripts.benchmark.inputs import NUM_THINGS, Size, categories, smooth

SIZE: Size = (800, 1066)
CONF_THR = 0.5
CONFIDENT = 15
"""Of 100 detections in an image of COCO about as many score 0.5 or more."""
SHARPNESS = 4.0
"""Standard deviation of the class logits."""
MASK_LOGIT = 2.0
"""Masks fill their boxes, as those of things mostly do."""
OVERRIDES = (
    "preset=coco", "method=ocfusion", "data.root=none",
    "backbone.weights=null", "backbone.norm=batch", "backbone.frozen_stages=0",  # random weights
    "thing.aligned=false",  # torchvision's convention, so that both see the same
    "channels_last=true",
)  # fmt: skip


class Networks(NamedTuple):
    """Ours and torchvision's, in evaluation mode, and the image they were set up for."""

    ours: PanopticFPN
    theirs: MaskRCNN
    sample: Sample


@cache
def networks() -> Networks:
    """Made once a process: two jobs use them."""
    sample = image()
    ours = build_model(compose(OVERRIDES), categories()).eval()
    _normalise(ours, sample)
    _sharpen(ours, sample)
    theirs = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=NUM_THINGS + 1).eval()
    theirs.backbone.load_state_dict(ours.backbone.state_dict())
    assert isinstance(ours.thing, ThingBranch)
    theirs.rpn.load_state_dict(ours.thing.rpn.state_dict())
    theirs.roi_heads.load_state_dict(ours.thing.roi_heads.state_dict())
    return Networks(ours, theirs, sample)


def image() -> Sample:
    """Coloured patches with noise."""
    rng = np.random.default_rng(0)
    fields = 128 + 60 * smooth(rng, 3, (9, 12), SIZE) + 20 * smooth(rng, 3, (200, 260), SIZE)
    return Sample(fields.clamp(0, 255).to(torch.uint8), 1, "generated", SIZE)


@torch.no_grad()
def _normalise(model: PanopticFPN, sample: Sample) -> None:
    norms = [module for module in model.backbone.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.train().momentum = 1.0
    model.backbone(model.batch([sample]).images)
    for norm in norms:
        norm.eval()


@torch.no_grad()
def _sharpen(model: PanopticFPN, sample: Sample) -> None:
    """Sets the last layers of the heads; the bias of the background decides how many boxes are confident."""
    thing = model.thing
    assert isinstance(thing, ThingBranch)
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
    mask = heads.mask_predictor.mask_fcn_logits
    mask.weight.mul_(100)
    mask.bias.fill_(MASK_LOGIT)
    low, high = 0.0, 40.0
    regression = heads.box_predictor.bbox_pred(hidden)
    for _ in range(20):
        classify.bias[0] = (low + high) / 2
        scores = heads.postprocess_detections(classify(hidden), regression, boxes, batch.sizes)[1][0]
        low, high = ((low + high) / 2, high) if int((scores >= CONF_THR).sum()) > CONFIDENT else (low, (low + high) / 2)
