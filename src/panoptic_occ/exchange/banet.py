"""BANet: things and stuff read each other's features (Chen et al., CVPR 2020, "BANet: Bidirectional Aggregation Network
with Occlusion Handling for Panoptic Segmentation", sections 3.1, 3.2 and 3.4).

Shapes: B images, N boxes, C channels of the pyramid, S of the semantic features.
    F_S     (B, S, H/4, W/4)   trunk of the semantic head; its classifier gives L_seg
    F_S2I = phi(RoIAlign(F_S)) + RoIAlign(P_l)   what box and mask head read (Eq. 1)
    F_ins   (N, C, 14, 14)     output of the convolutions of the mask head
    F_inlay = RoIInlay(F_ins)                    back on the map, 0 where no box is (Eqs. 2 and 3)
    F_I2S   = OCM(SIM(F_inlay, F_S), F_inlay)    a second classifier on it gives L_I2S and the panoptic result
Occlusion handling (section 3.3) is ``occlusion.banet``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from panoptic_occ.common.errors import ConfigError
from panoptic_occ.common.kinds import Scope
from panoptic_occ.config.values import checked
from panoptic_occ.exchange.base import BranchLosses, Exchange, Inputs, Outputs, annotated_rois, checked_range, needed
from panoptic_occ.exchange.roi_inlay import roi_inlay
from panoptic_occ.ops.initialise import zero_biases
from panoptic_occ.structures.categories import Categories
from panoptic_occ.structures.sample import Features, Requires
from panoptic_occ.stuff.base import StuffBranch, StuffHead, semantic_target
from panoptic_occ.thing.base import Positives, Rois, ThingBranch, Trainable
from panoptic_occ.thing.mask_rcnn import MaskRCNN
from panoptic_occ.thing.pooling import SEMANTIC, indexed

STRIDE = 4
Inlay = Literal["box", "mask"]


class FeatureAggregation(Exchange):
    """Semantic-to-Instance (``s2i``) and Instance-to-Semantic (``sim``, and ``ocm`` on top of it), each a switch as in
    the paper's Table 2; with all off it is the plain base.

    ``keep``: in training, the share of the annotated boxes that is inlaid is uniform in this range.  ``inlay_thr``: at
    test, the lowest score of a box that is.
    ``inlay``: all of the ``box``, or every cell as far as it lies in the predicted ``mask``, with the weighted mean
    where boxes overlap.
    ``channels``, ``context``: width of F_I2S and of the encoding of the layout; None: ``in_channels`` and half of
    ``channels`` (256 and 128).  ``layout_channels`` (E) and ``bins`` of the layout's pooling pyramid.  All widths but E
    are assumptions, the paper does not give them.
    Raises ConfigError for switches that exclude each other and branches without features to exchange.
    """

    @checked("exchange")
    def __init__(
        self,
        *,
        in_channels: int,
        categories: Categories,
        stuff: StuffBranch,
        s2i: bool = True,
        sim: bool = True,
        ocm: bool = True,
        keep: tuple[float, float] = (0.6, 1.0),
        inlay_thr: Annotated[float, Scope.DETECTIONS] = 0.5,
        inlay: Inlay = "box",
        channels: int | None = None,
        context: int | None = None,
        layout_channels: int = 10,
        bins: Sequence[int] = (1, 2, 3, 6),
    ) -> None:
        super().__init__(in_channels=in_channels, categories=categories, stuff=stuff)
        if ocm and not sim:
            raise ConfigError("exchange.ocm=true adds to what SIM gives; set exchange.sim=true, or exchange.ocm=false")
        self.keep = checked_range(keep)
        self.inlay_thr, self.inlay = inlay_thr, inlay
        self.phi = projection(_semantic_head(stuff).width, in_channels) if s2i else None
        self.i2s: InstanceToSemantic | None = None
        if sim:
            head, channels = _semantic_head(stuff), channels or in_channels
            layout = LayoutContext(channels, context or max(channels // 2, 1), layout_channels, bins) if ocm else None
            self.i2s = InstanceToSemantic(in_channels, head.width, channels, head.num_classes, layout)
            self.shown_thr = inlay_thr
        zero_biases(self)

    def losses(self, inputs: Inputs) -> BranchLosses:
        """The losses of both branches, and with I2S the second semantic loss ``i2s`` (Eq. 5)."""
        if self.phi is None and self.i2s is None:
            return super().losses(inputs)
        thing, stuff, batch = _mask_rcnn(inputs.thing), _semantic_head(inputs.stuff), inputs.batch
        semantic = stuff.trunk(inputs.features.stuff)
        pyramid = self.with_semantics(inputs.features.thing, semantic)
        things = thing.losses(pyramid, batch)
        truth = semantic_target(batch)
        stuffs = {"stuff": stuff.loss(stuff.predictor(semantic), truth)}
        if self.i2s is not None:
            rois = annotated_rois(batch.targets, self.keep)
            inner = thing.mask_features(thing.pool(pyramid, rois))
            weights = self._weights(thing, inner, rois)
            stuffs["i2s"] = stuff.loss(self.i2s(semantic, inner, rois, batch.sizes, _aligned(thing), weights), truth)
        return BranchLosses(things, stuffs)

    @torch.no_grad()
    def outputs(self, inputs: Inputs, conf_thr: float, requires: Requires) -> Outputs:
        """Ranked detections from F_S2I, and the semantic maps that F_I2S gives where there is one."""
        if self.phi is None and self.i2s is None:
            return super().outputs(inputs, conf_thr, requires)
        thing, stuff, batch = _mask_rcnn(inputs.thing), _semantic_head(inputs.stuff), inputs.batch
        semantic = stuff.trunk(inputs.features.stuff)
        pyramid = self.with_semantics(inputs.features.thing, semantic)
        if self.i2s is None:
            maps = stuff.decode(stuff.predictor(semantic), batch, requires)
            return thing.detect(pyramid, batch, conf_thr, requires), maps
        rois = thing.find(pyramid, batch, min(conf_thr, self.inlay_thr))
        pooled = thing.pool(pyramid, rois)
        inner = thing.mask_features(pooled)
        inlaid, index = _above(rois, self.inlay_thr)
        weights = self._weights(thing, inner[index], inlaid)
        logits = self.i2s(semantic, inner[index], inlaid, batch.sizes, _aligned(thing), weights)
        detections, index = _above(rois, conf_thr)
        soft = thing.soft_masks(thing.mask_logits(inner[index]), detections)
        return thing.placed(detections, soft, pooled[index], batch, requires), stuff.decode(logits, batch, requires)

    @torch.no_grad()
    def positives(self, inputs: Inputs, requires: Requires, trainable: Trainable = None) -> Positives:
        """Positive proposals from F_S2I, as at test."""
        if self.phi is None:
            return super().positives(inputs, requires, trainable)
        semantic = _semantic_head(inputs.stuff).trunk(inputs.features.stuff)
        pyramid = self.with_semantics(inputs.features.thing, semantic)
        return _mask_rcnn(inputs.thing).positives(pyramid, inputs.batch, requires, trainable)

    def _weights(
        self, thing: MaskRCNN, inner: Float[Tensor, "n c 14 14"], rois: Sequence[Rois]
    ) -> Float[Tensor, "n 14 14"] | None:
        """How much of every cell of F_ins is inlaid: its mask probability, or None for all of it."""
        if self.inlay == "box":
            return None
        return F.avg_pool2d(thing.soft_masks(thing.mask_logits(inner), rois)[:, None], 2).squeeze(1)

    def with_semantics(self, features: Features, semantic: Float[Tensor, "b s h4 w4"]) -> Features:
        """S2I (Eq. 1): the pyramid with phi(F_S) beside it, which is added to the crop of every box (a 1x1 convolution
        and RoIAlign commute)."""
        return features if self.phi is None else features | {SEMANTIC: self.phi(semantic)}


class InstanceToSemantic(nn.Module):
    """I2S (section 3.2, Figure 4): SIM, with ``layout`` also OCM, and the second classifier.

    SIM: 1x1 projections of F_inlay and F_S to half of ``channels`` each with ReLU, joined, 3x3 convolution with ReLU.
    The projection of F_inlay, and OCM's to E channels, have no bias, so that they commute with the inlay and run on the
    crops.
    """

    def __init__(
        self, in_channels: int, semantic: int, channels: int, classes: int, layout: LayoutContext | None
    ) -> None:
        super().__init__()
        half = max(channels // 2, 1)
        self.widths = (half, 0 if layout is None else layout.channels)
        self.project_instances = projection(in_channels, sum(self.widths), bias=False)
        self.project_semantic = projection(semantic, half)
        self.mix = nn.Conv2d(2 * half, channels, 3, padding=1)
        nn.init.kaiming_normal_(self.mix.weight, mode="fan_out", nonlinearity="relu")
        self.layout = layout
        self.predictor = nn.Conv2d(channels, classes, 1)
        nn.init.normal_(self.predictor.weight, std=0.01)

    def forward(
        self,
        semantic: Float[Tensor, "b s h4 w4"],
        inner: Float[Tensor, "n c m m"],
        rois: Sequence[Rois],
        sizes: Sequence[tuple[int, int]],
        aligned: bool = True,
        weights: Float[Tensor, "n m m"] | None = None,
    ) -> Float[Tensor, "b k h4 w4"]:
        """Logits at stride 4 from F_S and the F_ins of ``rois``; ``sizes``: images in pixels, without padding;
        ``weights``: of every cell of F_ins, None: 1."""
        images, _, height, width = semantic.shape
        boxes = indexed([r.boxes for r in rois])
        inlay = roi_inlay(self.project_instances(inner), boxes, (images, height, width), STRIDE, aligned, weights)
        structure, layout = inlay.split(self.widths, dim=1)
        joined = torch.cat([F.relu(structure), F.relu(self.project_semantic(semantic))], dim=1)
        mixed = F.relu(self.mix(joined))
        if self.layout is not None:
            mixed = self.layout(mixed, layout, sizes)
        return self.predictor(mixed)


class LayoutContext(nn.Module):
    """OCM (section 3.2): a code of where objects are, the same for every pixel of an image, joined to SIM's output.

    The E maps of the layout are max-pooled to ``bins`` x ``bins`` cells each, a linear layer with ReLU encodes them in
    ``context`` numbers, and a 1x1 convolution with ReLU reads these beside SIM's channels.
    """

    def __init__(self, channels: int, context: int, layout_channels: int, bins: Sequence[int]) -> None:
        super().__init__()
        self.channels, self.bins = layout_channels, tuple(bins)
        self.encode = nn.Linear(layout_channels * sum(cells**2 for cells in bins), context)
        self.merge = nn.Conv2d(channels + context, channels, 1)
        nn.init.kaiming_uniform_(self.encode.weight, a=1)  # its 500 inputs would make the code too large
        nn.init.kaiming_normal_(self.merge.weight, mode="fan_out", nonlinearity="relu")

    def forward(
        self, mixed: Float[Tensor, "b c h4 w4"], layout: Float[Tensor, "b e h4 w4"], sizes: Sequence[tuple[int, int]]
    ) -> Float[Tensor, "b c h4 w4"]:
        """F_I2S; the padding of the batch is no part of the layout."""
        code = F.relu(self.encode(self.pyramid(layout, sizes)))
        # a 1x1 convolution of joined channels is a sum of two, so the code is projected once and not in every pixel
        local, spread = self.merge.weight.split([mixed.shape[1], code.shape[1]], dim=1)
        constant = F.linear(code, spread.flatten(1), self.merge.bias)
        return F.relu(F.conv2d(mixed, local) + constant[..., None, None])

    def pyramid(
        self, layout: Float[Tensor, "b e h4 w4"], sizes: Sequence[tuple[int, int]]
    ) -> Float[Tensor, "b e*cells"]:
        """Maxima over every cell of every grid, image by image."""
        codes = []
        for maps, (height, width) in zip(layout, sizes, strict=True):
            inside = maps[:, : -(-height // STRIDE), : -(-width // STRIDE)]
            codes.append(torch.cat([F.adaptive_max_pool2d(inside, cells).flatten() for cells in self.bins]))
        return torch.stack(codes)


def projection(in_channels: int, out_channels: int, bias: bool = True) -> nn.Conv2d:
    """A 1x1 convolution, initialised as the lateral ones of an FPN; its bias, if any, is 0."""
    conv = nn.Conv2d(in_channels, out_channels, 1, bias=bias)
    nn.init.kaiming_uniform_(conv.weight, a=1)
    zero_biases(conv)
    return conv


def _above(rois: Sequence[Rois], threshold: float) -> tuple[list[Rois], Int[Tensor, " m"]]:
    """The regions with ``score >= threshold``, and their indices among those of all images."""
    above = [r.scores >= threshold for r in rois]
    return [r[k] for r, k in zip(rois, above, strict=True)], torch.cat(above).nonzero().flatten()


def _aligned(thing: MaskRCNN) -> bool:
    """Where the thing branch's RoIAlign puts the centre of a pixel; the inlay must agree."""
    return bool(thing.roi_heads.mask_roi_pool.aligned)


def _mask_rcnn(thing: ThingBranch) -> MaskRCNN:
    return needed(thing, MaskRCNN, "banet", "the features of a mask head", "thing=mask_rcnn (or mask_rcnn_small)")


def _semantic_head(stuff: StuffBranch) -> StuffHead:
    return needed(stuff, StuffHead, "banet", "the features of a semantic head", "stuff=banet or another head")
