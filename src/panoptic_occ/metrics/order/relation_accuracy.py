"""How often a method names the right instance of an overlapping pair, beside what score and area would have said."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Int, Int64
from torch import Tensor
from torchmetrics import Metric

from panoptic_occ.structures.instances import InstanceSet
from panoptic_occ.structures.masks import PairStats
from panoptic_occ.structures.relation import GroundTruthRelation, Relation

Matches = Int[Tensor, " n"]


class RelationCounts(NamedTuple):
    """Annotated pairs with a known order, those with both instances detected, and how many each rule gets right."""

    known: int
    pairs: int
    correct: int
    score_correct: int
    area_correct: int


class RelationScores(NamedTuple):
    """Fractions over all images: accuracies over the ``pairs`` (NaN without any), ``coverage`` = pairs / known pairs
    (NaN when no order is known)."""

    accuracy: float
    coverage: float
    pairs: int
    known_pairs: int
    score_accuracy: float
    area_accuracy: float


def relation_counts(
    instances: InstanceSet,
    stats: PairStats,
    relation: Relation,
    matches: Matches | Callable[[], Matches],
    target: GroundTruthRelation,
    sig_ratio: float,
) -> RelationCounts:
    """Compares a relation with the annotated order of one image.

    ``matches[n]``: index of the annotation that detection n stands for, -1 without one, one to one; or a function that
    finds them, which is called only if the order of any pair is known.  Annotated pairs count when their order is known
    at ``sig_ratio`` (majority rule, OCFusion 3.2) and both instances are detected.  The front instance is the one that
    the fusion would put there: of the two, the one it is offered later lies in front if the relation says so, else the
    earlier one.  Score: the higher one (earlier) is in front; area: the smaller mask of ``stats``, on a tie the higher
    score.  Raises ValueError when ``matches`` contradicts the other inputs.
    """
    order = target.matrix(sig_ratio, "majority").cpu().numpy()
    front, behind = (order == 1).nonzero()  # 0 in the other direction
    known = len(front)
    if callable(matches):
        if not known:
            return RelationCounts(0, 0, 0, 0, 0)
        matches = matches()
    detection = _detection_of(matches.cpu().numpy(), len(instances), len(target))
    front, behind = detection[front], detection[behind]
    detected = (front >= 0) & (behind >= 0)
    front, behind = front[detected], behind[detected]

    by_score = torch.argsort(instances.scores, descending=True, stable=True).cpu().numpy()
    offered = by_score if relation.order is None else relation.order.cpu().numpy()
    turn, rank = _ranks(offered), _ranks(by_score)
    above = relation.above().cpu().numpy()
    correct = np.where(turn[front] > turn[behind], above[front, behind], ~above[behind, front])
    higher = rank[front] < rank[behind]
    area = stats.area.cpu().numpy()
    smaller = (area[front] < area[behind]) | (area[front] == area[behind]) & higher
    return RelationCounts(known, len(front), *(int(np.count_nonzero(hits)) for hits in (correct, higher, smaller)))


class RelationAccuracy(Metric):
    """Relation accuracy over all images, in any number of processes (the states are counts).

    ``sig_ratio``: annotated pairs need an intersection of this share of one of the two masks (OCFusion's rho).
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    counts: Int64[Tensor, " k"]

    def __init__(self, sig_ratio: float = 0.2, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.sig_ratio = sig_ratio
        self.add_state("counts", torch.zeros(len(RelationCounts._fields), dtype=torch.int64), dist_reduce_fx="sum")

    def update(
        self,
        instances: InstanceSet,
        stats: PairStats,
        relation: Relation,
        matches: Matches | Callable[[], Matches],
        target: GroundTruthRelation,
    ) -> None:
        """Adds one image; see ``relation_counts``."""
        counts = relation_counts(instances, stats, relation, matches, target, self.sig_ratio)
        self.counts += torch.tensor(counts, device=self.counts.device)

    def compute(self) -> RelationScores:
        """The scores so far, as fractions."""
        counts = RelationCounts(*self.counts.tolist())
        return RelationScores(
            accuracy=_share(counts.correct, counts.pairs),
            coverage=_share(counts.pairs, counts.known),
            pairs=counts.pairs,
            known_pairs=counts.known,
            score_accuracy=_share(counts.score_correct, counts.pairs),
            area_accuracy=_share(counts.area_correct, counts.pairs),
        )


def _detection_of(matches: Int64[np.ndarray, " n"], detections: int, annotations: int) -> Int64[np.ndarray, " k"]:
    """The detection of each annotation, -1 without one."""
    matched = (matches >= 0).nonzero()[0]
    found = matches[matched]
    if len(matches) != detections or len(set(found.tolist())) != len(found) or (found >= annotations).any():
        raise ValueError(
            f"matches {matches.tolist()} must give each of the {detections} detections its own annotation "
            f"(0 .. {annotations - 1}) or -1"
        )
    detection = np.full(annotations, -1)
    detection[found] = matched
    return detection


def _ranks(order: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
    """The place of everyone in ``order``."""
    ranks = np.empty_like(order)
    ranks[order] = np.arange(len(order))
    return ranks


def _share(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")
