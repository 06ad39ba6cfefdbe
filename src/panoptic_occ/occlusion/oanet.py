"""OANet: a ranking score for every instance, read off a map of where all masks lie (Liu et al., CVPR 2019, "An
End-to-End Network for Panoptic Segmentation", section 3.2, the spatial ranking module).

C thing classes, N instances with masks M_i and classes c_i, an image of H x W pixels:
    T   = 1 in channel c_i on the pixels of M_i, else 0   (C, H, W)   instance tensor; set, never added up
    S   = conv(T), large kernel, no activation            (C, H, W)   ranking score map
    p   = softmax of S over the classes, or the sigmoid of every class alone
    P_i = mean of p[c_i] over the pixels of M_i           (N,)        ranking score, Equation 3
The instances are pasted by falling P_i.  S learns by cross-entropy (Equation 2) which class the panoptic annotation
shows where masks conflict, so annotations are all that it needs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import reduce
from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from panoptic_occ.common.kinds import Scope
from panoptic_occ.config.values import checked
from panoptic_occ.occlusion.base import NO_CONTEXT, Context, OcclusionModel, TrainingExample
from panoptic_occ.structures.categories import Categories
from panoptic_occ.structures.instances import InstanceSet, by_score
from panoptic_occ.structures.masks import MaskCrops, PairStats
from panoptic_occ.structures.relation import Relation
from panoptic_occ.structures.semantic_map import VOID_LABEL
from panoptic_occ.structures.target import Target

Conv = Literal["1x1", "3x3", "gcn7", "seq7"]
Conflict = Literal["instance", "class"]
Stride = Literal[1, 4]
Pool = Literal["average", "any"]
Ranking = Literal["replace", "multiply"]
Probability = Literal["softmax", "sigmoid"]
Init = Literal["kaiming", "identity"]
Box = tuple[int, int, int, int]
"""Top, left, bottom, right; the last two exclusive."""

BRANCHES: dict[Conv, tuple[tuple[tuple[int, int], ...], ...]] = {
    "1x1": (((1, 1),),),
    "3x3": (((3, 3),),),
    "gcn7": (((1, 7), (7, 1)), ((7, 1), (1, 7))),  # the block of Global Convolutional Network
    "seq7": (((1, 7), (7, 1)),),
}
"""Kernel sizes (height, width) of the layers of every branch; the branches are added (Table 5)."""


class SpatialRanking(OcclusionModel):
    """The spatial ranking module of OANet.

    ``conv``: ``gcn7`` (1x7 then 7x1 plus 7x1 then 1x7), ``seq7`` (the first of these alone), ``3x3`` or ``1x1`` (a
    table of which class beats which).
    ``conflict``: pixels that train are covered by two ``instance`` masks, or by masks of two ``class``es.
    ``stride``: 1 computes S for every pixel, 4 for every cell of 4 x 4 pixels, and then upsamples S.
    ``pool``: T holds the covered share of a cell (``average``), or 1 where a mask has ``any`` pixel of it.
    ``ranking``: instances are pasted by falling P alone (``replace``, as Figure 7 suggests), or by P times their score
    (``multiply``).
    ``probability``: what P averages, the ``softmax`` over the classes, as Equation 2 trains it, or the ``sigmoid`` of
    the instance's class.
    All pairs take part, so there are no ``sig_ratio``, ``intra`` and ``inter`` to choose.
    """

    learns_from: ClassVar[Literal["proposals", "annotations"]] = "annotations"

    @checked("occlusion")
    def __init__(
        self,
        *,
        in_channels: int,
        categories: Categories,
        conv: Conv = "gcn7",
        conflict: Conflict = "instance",
        stride: Stride = 1,
        pool: Pool = "average",
        ranking: Annotated[Ranking, Scope.RESULT] = "replace",
        probability: Annotated[Probability, Scope.RESULT] = "softmax",
        init: Init = "kaiming",
    ) -> None:
        super().__init__(in_channels=in_channels, categories=categories, sig_ratio=0.0)
        self.conflict: Conflict = conflict
        self.stride: Stride = stride
        self.pool, self.ranking, self.probability = pool, ranking, probability
        self.conv = RankingConv(conv, categories.num_things, init)

    def forward(self, instances: InstanceSet, stats: PairStats, context: Context = NO_CONTEXT) -> Relation:
        """Order by falling P, ties by score; margin P_i - P_j, valid for every overlapping pair of different P."""
        value = self.ranking_scores(instances.masks, instances.labels)
        if self.ranking == "multiply":
            value = value * instances.scores
        ranking = by_score(instances.scores)
        order = ranking[by_score(value[ranking])]
        margin = value[:, None] - value[None, :]
        return Relation(margin, (stats.inter > 0) & (margin != 0), order, value, transitive=True)

    def ranking_scores(self, masks: MaskCrops, labels: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
        """P of every instance (Equation 3); 0 for an empty mask."""
        windows = masks.windows[masks.windows[:, 2:].amin(dim=1) > 0]
        if len(windows) == 0:
            return torch.zeros(len(labels), device=labels.device)
        top, left = windows[:, :2].amin(dim=0).tolist()
        bottom, right = (windows[:, :2] + windows[:, 2:]).amax(dim=0).tolist()
        box = (top, left, bottom, right)  # P reads nothing outside the masks
        scores = self.ranking_map(masks, labels, box, self.conv.folded())
        probs = scores.softmax(dim=0) if self.probability == "softmax" else scores.sigmoid()
        sums = [  # in float64, so that constant probabilities have exactly equal means, and scores decide
            (probs[label, ys.start - top : ys.stop - top, xs.start - left : xs.stop - left] * crop).double().sum()
            for label, ((ys, xs), crop) in zip(labels.tolist(), masks, strict=True)
        ]
        return (torch.stack(sums) / masks.area.clamp(min=1)).float()

    def ranking_map(
        self, masks: MaskCrops, labels: Int[Tensor, " n"], box: Box, kernel: Float[Tensor, "c c k k"]
    ) -> Float[Tensor, "c h w"]:
        """S (float32) inside ``box``, a part of the image: the same numbers as if the whole image were convolved.  At
        stride 4 the image is padded with zeros to a multiple of 4, T pooled over cells, and S upsampled (bilinear)."""
        present, channels = labels.unique(return_inverse=True)
        top, left, bottom, right = whole_cells(box, masks.size, self.stride)
        reach = kernel.shape[-1] // 2 * self.stride
        wide = (top - reach, left - reach, bottom + reach, right + reach)
        cells = instance_tensor(masks, channels, len(present), wide)[None].float()
        if self.stride > 1:
            cells = F.avg_pool2d(cells, self.stride) if self.pool == "average" else F.max_pool2d(cells, self.stride)
        scores = F.conv2d(cells, kernel[:, present], self.conv.bias).float()
        if self.stride > 1:
            scores = F.interpolate(scores, scale_factor=self.stride, mode="bilinear", align_corners=False)
        return scores[0, :, box[0] - top : box[2] - top, box[1] - left : box[3] - left]

    def loss(self, examples: Sequence[TrainingExample], generator: torch.Generator) -> dict[str, Tensor]:
        """Cross-entropy (Equation 2), mean over the conflicting pixels of the batch; 0 with a graph without any."""
        kernel = self.conv.folded()
        total, count = (kernel.sum() + self.conv.bias.sum()) * 0, 0
        for example in examples:
            target = example.target
            truth = ranking_target(target, self.conflict, self.categories.num_things)
            if (truth == VOID_LABEL).all():
                continue
            top, left, height, width = MaskCrops.from_dense((truth != VOID_LABEL)[None]).windows[0].tolist()
            truth = truth[top : top + height, left : left + width]
            conflicting = truth != VOID_LABEL
            scores = self.ranking_map(target.masks, target.labels, (top, left, top + height, left + width), kernel)
            total = total + F.cross_entropy(scores[:, conflicting].T, truth[conflicting], reduction="sum")
            count += int(conflicting.sum())
        return {"loss_occlusion": total / max(count, 1)}


class RankingConv(nn.Module):
    """The layers between T and S, C to C channels each: linear, with one bias at the end, so that zero padding composes
    exactly and every choice of layers is one convolution."""

    def __init__(self, conv: Conv, classes: int, init: Init = "kaiming") -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            nn.ParameterList(torch.empty(classes, classes, *size) for size in sizes) for sizes in BRANCHES[conv]
        )
        self.bias = nn.Parameter(torch.zeros(classes))
        for kernel in self.branches.parameters():
            if init == "kaiming":
                nn.init.kaiming_normal_(kernel, mode="fan_out", nonlinearity="linear")
            else:
                nn.init.dirac_(kernel)
        if init == "identity":
            with torch.no_grad():
                for branch in self.branches:
                    *_, last = branch.parameters()
                    last.div_(len(self.branches))  # which are added: S = T, whatever the layers

    def folded(self) -> Float[Tensor, "c c k k"]:
        """Kernel of the one convolution that equals all layers; the channels of classes that an image lacks need not be
        computed."""
        layers: list[Iterator[Tensor]] = [branch.parameters() for branch in self.branches]
        return torch.stack([reduce(composed, kernels) for kernels in layers]).sum(dim=0)


def composed(first: Float[Tensor, "c c h w"], second: Float[Tensor, "c c y x"]) -> Float[Tensor, "c c k k"]:
    """Kernel of two layers one after the other, of which one is a single row and the other a single column."""
    return torch.einsum("omyx,mivw->oiyvxw", second, first).flatten(4, 5).flatten(2, 3)


def instance_tensor(masks: MaskCrops, channels: Int[Tensor, " n"], count: int, box: Box) -> Bool[Tensor, "{count} h w"]:
    """T inside ``box``, which may leave the image: the union of the masks of every channel."""
    top, left, bottom, right = box
    tensor = torch.zeros((count, bottom - top, right - left), dtype=torch.bool, device=masks.pixels.device)
    for channel, ((ys, xs), crop) in zip(channels.tolist(), masks, strict=True):
        y0, y1 = max(ys.start, top), min(ys.stop, bottom)
        x0, x1 = max(xs.start, left), min(xs.stop, right)
        if y0 < y1 and x0 < x1:
            part = crop[y0 - ys.start : y1 - ys.start, x0 - xs.start : x1 - xs.start]
            tensor[channel, y0 - top : y1 - top, x0 - left : x1 - left] |= part
    return tensor


def whole_cells(box: Box, size: tuple[int, int], stride: Stride) -> Box:
    """``box`` in whole cells, with one more on every side that has one, because upsampling reads the next."""
    if stride == 1:
        return box
    top, left = (max(edge // stride - 1, 0) * stride for edge in box[:2])
    bottom, right = (
        min(math.ceil(edge / stride) + 1, math.ceil(full / stride)) * stride
        for edge, full in zip(box[2:], size, strict=True)
    )
    return top, left, bottom, right


def ranking_target(target: Target, conflict: Conflict, num_things: int) -> Int[Tensor, "h w"]:
    """The label map of Equation 2: the thing class that the panoptic map shows where at least two annotated masks (of
    two classes, for ``class``) lie, ``VOID_LABEL`` elsewhere and where it shows stuff, a crowd or nothing."""
    layers = target.labels if conflict == "class" else torch.arange(len(target.labels), device=target.labels.device)
    present, channels = layers.unique(return_inverse=True)
    covering = instance_tensor(target.masks, channels, len(present), (0, 0, *target.masks.size)).sum(dim=0)
    labels = target.semantic()
    ids = target.panoptic.ids
    crowds = torch.tensor([s.id for s in target.panoptic.segments if s.iscrowd], dtype=ids.dtype, device=ids.device)
    ignored = (covering < 2) | (labels >= num_things) | torch.isin(ids, crowds)
    return labels.masked_fill(ignored, VOID_LABEL)
