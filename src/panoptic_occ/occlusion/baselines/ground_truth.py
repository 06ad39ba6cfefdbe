"""The annotated order, as the ceiling of every method on the same detections, or fed into another method (BANet, Table
4, "GT Occ"): what is left to gain from a better order."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from panoptic_occ.common.errors import ConfigError
from panoptic_occ.common.kinds import Scope, Share
from panoptic_occ.config.values import checked
from panoptic_occ.occlusion.base import NO_CONTEXT, Context, OcclusionModel
from panoptic_occ.ops.matching import Match, matches_of
from panoptic_occ.structures.instances import InstanceSet
from panoptic_occ.structures.masks import MaskCrops, PairStats
from panoptic_occ.structures.relation import GroundTruthRule, Relation
from panoptic_occ.structures.target import Target


class GroundTruthOrder(OcclusionModel):
    """Detections take the order of the annotations that they match; all others go by score.

    ``iou_thr``, ``match``: lowest IoU of a match, of the ``mask``, or of the ``box``, as BANet's Table 4 may be read.
    ``rule``: which of two annotations lies in front.  ``gt_sig_ratio``: how much they must overlap to have an order (0:
    at all), beside the ``sig_ratio`` of the detections.
    """

    requires: ClassVar[frozenset[str]] = frozenset({"target"})
    scope: ClassVar[Scope] = Scope.RESULT

    @checked("occlusion")
    def __init__(
        self,
        *,
        rule: GroundTruthRule = "majority",
        gt_sig_ratio: Share = 0.0,
        iou_thr: Share = 0.5,
        match: Match = "mask",
        **common: Any,
    ) -> None:
        super().__init__(**common)
        self.rule: GroundTruthRule = rule
        self.match: Match = match
        self.gt_sig_ratio, self.iou_thr = gt_sig_ratio, iou_thr

    def forward(self, instances: InstanceSet, stats: PairStats, context: Context = NO_CONTEXT) -> Relation:
        """Margin 1 or -1 where both detections match annotations that have an order, else 0 and not valid."""
        if context.target is None:
            raise ConfigError(
                "occlusion=ground_truth reads the annotations, and this image has none; evaluate an annotated split or "
                "choose another occlusion method"
            )
        matches = matches_of(instances, context.target, self.iou_thr, self.match)
        margin = annotated_margin(matches, context.target.relation.matrix(self.gt_sig_ratio, self.rule))
        return Relation(margin, (margin != 0) & self.pairs(instances, stats))


def annotated_margin(matches: Int[Tensor, " n"], order: Int[Tensor, "k k"]) -> Float[Tensor, "n n"]:
    """1 where the annotation of the row lies above that of the column, -1 below it, 0 where they have no order.
    ``matches``: annotation of every detection; ``order``: see ``GroundTruthRelation.matrix``."""
    padded = F.pad(order.to(matches.device), (0, 1, 0, 1), value=-1)  # the last one stands for UNMATCHED, which is -1
    above = padded[matches[:, None], matches[None, :]]
    return torch.where(above >= 0, 2.0 * above - 1, 0)


def with_annotated_order(
    relation: Relation, instances: InstanceSet, stats: PairStats, target: Target, match: Match = "mask"
) -> Relation:
    """``relation`` with margin 1 or -1 between instances whose annotations have an order (matched by ``mask`` or
    ``box``, as in ``GroundTruthOrder``); other pairs, and the order of the offers, stay as they are."""
    annotated_order = annotated_margin(matches_of(instances, target, by=match), target.relation.matrix(0.0))
    annotated = (annotated_order != 0) & (stats.inter > 0)
    return replace(
        relation,
        margin=torch.where(annotated, annotated_order, relation.margin),
        valid=relation.valid | annotated,
        value=None,
        transitive=False,
        score_decides=None if relation.score_decides is None else relation.score_decides & ~annotated,
        claims=None if relation.claims is None else _widened(relation.claims, instances.masks, annotated),
    )


def _widened(claims: MaskCrops, masks: MaskCrops, pairs: Bool[Tensor, "n n"]) -> MaskCrops:
    """``claims`` with all pixels that the two masks of a pair share, so that the pair's order decides there."""
    dense = masks.dense()
    shared = [mask & dense[others].any(dim=0) for mask, others in zip(dense, pairs, strict=True)]
    return MaskCrops.from_dense(claims.dense() | torch.stack(shared)) if shared else claims
