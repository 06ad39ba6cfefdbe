"""The annotated order fed into any method: what is left to gain from a better order (BANet, Table 4, "GT Occ")."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Bool
from torch import Tensor

from panoptic_occ.occlusion.baselines.ground_truth import annotated_margin
from panoptic_occ.ops.matching import Match, matches_of
from panoptic_occ.structures.instances import InstanceSet
from panoptic_occ.structures.masks import MaskCrops, PairStats
from panoptic_occ.structures.relation import Relation
from panoptic_occ.structures.target import Target


def with_annotated_order(
    relation: Relation, instances: InstanceSet, stats: PairStats, target: Target, match: Match = "mask"
) -> Relation:
    """``relation`` with margin 1 or -1 between instances whose annotations have an order (matched by ``mask`` or
    ``box``, as in ``GroundTruthOrder``); other pairs, and the order of the offers, stay as they are.
    """
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
