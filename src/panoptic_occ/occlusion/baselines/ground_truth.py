"""Ground-truth order: the ceiling of every method on the same detections (the oracle row of a table)."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from panoptic_occ.common.errors import ConfigError, did_you_mean
from panoptic_occ.common.kinds import Scope
from panoptic_occ.occlusion.base import OcclusionModel
from panoptic_occ.ops.matching import MATCHES, UNMATCHED, Match, matches_of
from panoptic_occ.structures.instances import InstanceSet
from panoptic_occ.structures.masks import PairStats
from panoptic_occ.structures.relation import Relation
from panoptic_occ.structures.sample import NO_CONTEXT, Context, Target

RULES = ("majority", "delta")


class GroundTruthOrder(OcclusionModel):
    """Detections take the order of the annotations they match (IoU >= ``iou_thr``); all others go by score.

    ``match``: by the IoU of the ``mask``, or of the ``box``, as BANet's Table 4 ("GT Occ") may be read.
    ``rule``: who owns the common pixels of two annotations, see ``GroundTruthRelation``; ``gt_sig_ratio``: how much two
    annotations must overlap to have an order (0: at all), beside the ``sig_ratio`` of the detections.
    """

    requires: ClassVar[frozenset[str]] = frozenset({"target"})
    scope: ClassVar[Scope] = Scope.RESULT

    def __init__(
        self,
        *,
        rule: Literal["majority", "delta"] = "majority",
        gt_sig_ratio: float = 0.0,
        iou_thr: float = 0.5,
        match: Match = "mask",
        **common: Any,
    ) -> None:
        super().__init__(**common)
        if rule not in RULES:
            raise ConfigError(f"occlusion.rule={rule!r} is unknown; {did_you_mean(rule, RULES)}")
        if match not in MATCHES:
            raise ConfigError(f"occlusion.match={match!r} is unknown; {did_you_mean(match, MATCHES)}")
        self.rule = rule
        self.gt_sig_ratio = gt_sig_ratio
        self.iou_thr = iou_thr
        self.match: Match = match

    def forward(self, instances: InstanceSet, stats: PairStats, context: Context = NO_CONTEXT) -> Relation:
        """Margin 1 or -1 where both detections match annotations of known order, else 0 and not valid."""
        target = context.target
        if target is None:
            raise ConfigError(
                "occlusion=ground_truth reads the annotations, and this image has none; evaluate an annotated split or "
                "choose another occlusion method"
            )
        margin = annotated_margin(instances, target, self.rule, self.gt_sig_ratio, self.iou_thr, self.match)
        return Relation(margin, (margin != 0) & self.pairs(instances, stats))


def annotated_margin(
    instances: InstanceSet,
    target: Target,
    rule: Literal["majority", "delta"] = "majority",
    gt_sig_ratio: float = 0.0,
    iou_thr: float = 0.5,
    match: Match = "mask",
) -> Float[Tensor, "n n"]:
    """1 where the annotation of the row lies above that of the column, -1 below it, 0 where that is not known."""
    matches = matches_of(instances, target, iou_thr, match)
    order = target.relation.matrix(gt_sig_ratio, rule).to(matches.device)
    matched = matches != UNMATCHED
    known = matched[:, None] & matched[None, :]
    margin = torch.zeros(known.shape, device=matches.device)
    pair_order = order[matches[:, None], matches[None, :]] if len(order) else margin
    known &= pair_order >= 0
    margin[known] = 2.0 * pair_order[known].float() - 1.0
    return margin
