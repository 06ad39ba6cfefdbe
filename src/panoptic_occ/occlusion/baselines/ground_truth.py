"""Ground-truth order: the ceiling of every method on the same detections (the oracle row of a table)."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from panoptic_occ.common.errors import ConfigError
from panoptic_occ.common.kinds import Scope, Share
from panoptic_occ.config.values import checked
from panoptic_occ.occlusion.base import NO_CONTEXT, Context, OcclusionModel
from panoptic_occ.ops.matching import UNMATCHED, Match, matches_of
from panoptic_occ.structures.instances import InstanceSet
from panoptic_occ.structures.masks import PairStats
from panoptic_occ.structures.relation import GroundTruthRule, Relation


class GroundTruthOrder(OcclusionModel):
    """Detections take the order of the annotations that they match; all others go by score.

    ``iou_thr``, ``match``: lowest IoU of a match, of the ``mask``, or of the ``box``, as BANet's Table 4 ("GT Occ") may
    be read.
    ``rule``: which of two annotations lies in front.  ``gt_sig_ratio``: how much two annotations must overlap to have
    an order (0: at all), beside the ``sig_ratio`` of the detections.
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
        target = context.target
        if target is None:
            raise ConfigError(
                "occlusion=ground_truth reads the annotations, and this image has none; evaluate an annotated split or "
                "choose another occlusion method"
            )
        matches = matches_of(instances, target, self.iou_thr, self.match)
        margin = annotated_margin(matches, target.relation.matrix(self.gt_sig_ratio, self.rule))
        return Relation(margin, (margin != 0) & self.pairs(instances, stats))


def annotated_margin(matches: Int[Tensor, " n"], order: Int[Tensor, "k k"]) -> Float[Tensor, "n n"]:
    """1 where the annotation of the row lies above that of the column, -1 below it, 0 where they have no order.

    ``matches``: annotation of every detection; ``order``: see ``GroundTruthRelation.matrix``.
    """
    margin = torch.zeros((len(matches), len(matches)), device=matches.device)
    if len(order):
        above = order.to(matches.device)[matches[:, None], matches[None, :]]
        matched = matches != UNMATCHED
        has_order = matched[:, None] & matched[None, :] & (above >= 0)
        margin[has_order] = 2.0 * above[has_order].float() - 1.0
    return margin
