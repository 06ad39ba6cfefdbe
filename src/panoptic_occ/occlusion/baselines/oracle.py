"""The annotated order fed into any method: what is left to gain from a better order (BANet, Table 4, "GT Occ")."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Bool
from torch import Tensor

from panoptic_occ.occlusion.baselines.ground_truth import annotated_margin
from panoptic_occ.ops.matching import Match
from panoptic_occ.structures.instances import InstanceSet
from panoptic_occ.structures.masks import MaskCrops, PairStats
from panoptic_occ.structures.relation import Relation
from panoptic_occ.structures.sample import Target


def with_annotated_order(
    relation: Relation, instances: InstanceSet, stats: PairStats, target: Target, match: Match = "mask"
) -> Relation:
    """``relation`` with margin 1 or -1 between instances that match annotations of known order (by ``mask`` or ``box``,
    as in ``GroundTruthOrder``); all other pairs, and the order of the offers, stay the method's own.
    """
    margin = annotated_margin(instances, target, match=match)
    known = (margin != 0) & (stats.inter > 0)
    return replace(
        relation,
        margin=torch.where(known, margin, relation.margin),
        valid=relation.valid | known,
        value=None,
        transitive=False,
        score_decides=None if relation.score_decides is None else relation.score_decides & ~known,
        claims=None if relation.claims is None else _open(relation.claims, instances.masks, known),
    )


def _open(claims: MaskCrops, masks: MaskCrops, known: Bool[Tensor, "n n"]) -> MaskCrops:
    """``claims`` widened by the pixels that an instance shares with others of known order: the order decides there."""
    dense = masks.dense()
    shared = [mask & dense[others].any(dim=0) for mask, others in zip(dense, known, strict=True)]
    return MaskCrops.from_dense(claims.dense() | torch.stack(shared)) if shared else claims
