"""RAP: one relation value per instance (Chen, "Resolving Fusion Conflicts by Relation Aware Panoptic Network").

Shapes: N instances, P pairs, C channels of the RoI features, masks 28x28, features 14x14.
    x_i = [maxpool2(m_i), f_i]             (C+1, 14, 14)   soft mask of the predicted class, raw RoIAlign feature
    v_i = head(x_i)                        an unbounded number; i lies in front of j when v_i < v_j
    L_r = mean log(1 + exp(v_i - v_j))     over the pairs with i in front of j (equations 1 and 2)
Section 3.1 gives the ground truth, 3.2 the loss, 3.3 the head, Algorithm 1 (in ``fusion.engine``) the fusion.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from panoptic_occ.common.kinds import Count, Scope, Share
from panoptic_occ.config.values import checked
from panoptic_occ.occlusion.base import OcclusionModel, TrainingExample
from panoptic_occ.occlusion.heads.pairs import sampled
from panoptic_occ.occlusion.heads.roi_head import ROI_SIZE, initialise, roi_inputs
from panoptic_occ.structures.instances import InstanceSet
from panoptic_occ.structures.masks import PairStats
from panoptic_occ.structures.relation import GroundTruthRule, Relation
from panoptic_occ.structures.target import Target

PairMean = Literal["proposals", "annotations"]


class RAP(OcclusionModel):
    """The relation value head of RAP.

    ``channels``, ``hidden``: width of the convolutions and of the fully connected layer; None: 1 and 4 times the width
    of the features (256 and 1024 in the released code).
    ``fcs``: linear layers, 2 in that code and 1 in the paper.
    ``gt_sig_ratio`` (theta), ``gt_rule``: which annotations have an order, and which of them lies in front.
    ``overlap_filter``: the predicted masks of a training pair must overlap as much as the annotations.
    ``pairs_per_image``: most training pairs of an image; None: all of them, as published.
    ``pair_mean``: the loss is the mean over pairs of ``proposals``, or over pairs of ``annotations``, each of them the
    mean of its pairs of proposals.
    """

    requires: ClassVar[frozenset[str]] = frozenset({"soft", "roi_features"})

    @checked("occlusion")
    def __init__(
        self,
        *,
        in_channels: int,
        channels: int | None = None,
        hidden: int | None = None,
        fcs: Literal[1, 2] = 2,
        gt_rule: GroundTruthRule = "majority",
        gt_sig_ratio: Share = 0.2,
        overlap_filter: bool = False,
        pairs_per_image: Count | None = None,
        pair_mean: PairMean = "proposals",
        sig_ratio: Annotated[Share, Scope.RESULT] = 0.0,
        **common: Any,
    ) -> None:
        super().__init__(in_channels=in_channels, sig_ratio=sig_ratio, **common)
        self.gt_rule: GroundTruthRule = gt_rule
        self.gt_sig_ratio, self.overlap_filter = gt_sig_ratio, overlap_filter
        self.pairs_per_image, self.pair_mean = pairs_per_image, pair_mean
        self.head = ValueHead(in_channels + 1, channels or in_channels, hidden or 4 * in_channels, fcs)

    def head_outputs(self, instances: InstanceSet, stats: PairStats, wide: bool = False) -> dict[str, Tensor]:
        """``values`` (N,): the relation value of every instance, smaller = in front."""
        return {"values": self.head(roi_inputs(instances))}

    def relate(self, instances: InstanceSet, stats: PairStats, head_outputs: Mapping[str, Tensor]) -> Relation:
        """Margin v_j - v_i (i above j when its value is smaller) wherever two masks overlap."""
        closeness = -head_outputs["values"]  # the paper's value grows with depth, Relation.value with closeness
        margin = closeness[:, None] - closeness[None, :]
        return Relation(margin, self.pairs(instances, stats), value=closeness, transitive=True)

    def trainable_annotations(self, target: Target) -> Bool[Tensor, " k"]:
        """Annotations that have an order with another one."""
        return (target.relation.matrix(self.gt_sig_ratio, self.gt_rule) >= 0).any(dim=1)

    def loss(self, examples: Sequence[TrainingExample], generator: torch.Generator) -> dict[str, Tensor]:
        """Ranking loss, mean over all pairs of the batch; 0 with a graph when there is none."""
        inputs, pairs, weights, offset = [], [], [], 0
        for example in examples:
            inputs.append(roi_inputs(example.instances))
            selected = self.training_pairs(example, generator)
            pairs.append(selected + offset)
            weights.append(self._weights(example.matches[selected]))
            offset += len(example.instances)
        used, ranked = torch.unique(torch.cat(pairs), return_inverse=True)  # the others have no part in the loss
        front, back = self.head(torch.cat(inputs)[used])[ranked].unbind(dim=1)
        weight = torch.cat(weights)
        return {"loss_occlusion": (weight * ranking_losses(front, back)).sum() / weight.sum().clamp(min=1)}

    def _weights(self, annotated: Int[Tensor, "p 2"]) -> Float[Tensor, " p"]:
        """How much every pair counts: as much as any other, or all pairs of the same two annotations as much as one."""
        if self.pair_mean == "proposals":
            return torch.ones(len(annotated), device=annotated.device)
        _, same, count = annotated.unique(dim=0, return_inverse=True, return_counts=True)
        return 1 / count[same]

    def training_pairs(self, example: TrainingExample, generator: torch.Generator) -> Int[Tensor, "p 2"]:
        """(front, back) of all pairs of proposals whose annotations have an order."""
        in_front = example.annotated_order(self.gt_sig_ratio, self.gt_rule) == 1
        if self.overlap_filter:
            in_front &= example.stats.significant(self.gt_sig_ratio)
        pairs = in_front.nonzero()
        return pairs if self.pairs_per_image is None else sampled(pairs, self.pairs_per_image, generator)


class ValueHead(nn.Module):
    """Four 3x3 convolutions and one or two linear layers on the input of one instance; no normalisation."""

    def __init__(self, in_channels: int, channels: int, hidden: int, fcs: int) -> None:
        super().__init__()
        self.convs = nn.Sequential()
        for inputs, stride in ((in_channels, 1), (channels, 1), (channels, 1), (channels, 2)):
            self.convs.extend([nn.Conv2d(inputs, channels, 3, stride=stride, padding=1), nn.ReLU()])
        flat = channels * (ROI_SIZE // 2) ** 2
        self.fcs = nn.Sequential(nn.Linear(flat, hidden), nn.ReLU()) if fcs == 2 else nn.Sequential()
        self.value = nn.Linear(hidden if fcs == 2 else flat, 1)
        initialise(self, last=self.value)

    def forward(self, x: Float[Tensor, "n c 14 14"]) -> Float[Tensor, " n"]:
        """Relation values (float32), smaller = in front."""
        values: Tensor = self.value(self.fcs(self.convs(x).flatten(1)))
        return values.squeeze(1).float()


def ranking_losses(front: Float[Tensor, " p"], back: Float[Tensor, " p"]) -> Float[Tensor, " p"]:
    """log(1 + exp(v_front - v_back)) of every pair (equation 1)."""
    return F.softplus(front - back)
