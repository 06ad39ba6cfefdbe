"""How often a relation names the right instance of an overlapping pair, beside what score and area would have said."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int, Int64
from torch import Tensor

from panoptic_occ.metrics.counting import PairMetric, share
from panoptic_occ.structures.instances import InstanceSet
from panoptic_occ.structures.masks import PairStats
from panoptic_occ.structures.relation import GroundTruthRelation, Relation

Matches = Int[Tensor, " n"] | Callable[[], Int[Tensor, " n"]]
"""Index of the annotation that each detection stands for, -1 without one; or a function that returns them, called only
if the order of any annotated pair is known."""


class RelationCounts(NamedTuple):
    """Annotated pairs with a known order, those with both instances detected, and how many each rule gets right."""

    known_pairs: int
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
    matches: Matches,
    target: GroundTruthRelation,
    sig_ratio: float,
) -> RelationCounts:
    """Compares a relation with the annotated order of one image.

    Annotated pairs count when their order is known at ``sig_ratio`` (majority rule, OCFusion 3.2) and both instances
    are detected; no two detections may match one annotation.  The front instance is the one that the fusion would put
    there: of the two, the later one in the fusion's sequence if the relation puts it above, else the earlier one.
    Score: the higher one is in front; area: the smaller mask of ``stats``, on a tie the higher score.  Raises
    ValueError when ``matches`` contradicts the other inputs.
    """
    order = target.matrix(sig_ratio, "majority").cpu().numpy()
    front, behind = (order == 1).nonzero()  # 0 in the other direction
    known_pairs = len(front)
    if callable(matches):
        if not known_pairs:
            return RelationCounts(0, 0, 0, 0, 0)
        matches = matches()
    detection = _detection_of(matches.cpu().numpy(), len(instances), len(target))
    front, behind = detection[front], detection[behind]
    detected = (front >= 0) & (behind >= 0)
    front, behind = front[detected], behind[detected]

    by_score = torch.argsort(instances.scores, descending=True, stable=True).cpu().numpy()
    sequence = by_score if relation.order is None else relation.order.cpu().numpy()
    turn, rank = np.argsort(sequence), np.argsort(by_score)
    above = relation.above().cpu().numpy()
    correct = np.where(turn[front] > turn[behind], above[front, behind], ~above[behind, front])
    higher = rank[front] < rank[behind]
    area = stats.area.cpu().numpy()
    smaller = (area[front] < area[behind]) | (area[front] == area[behind]) & higher
    return RelationCounts(
        known_pairs, len(front), *(int(np.count_nonzero(hits)) for hits in (correct, higher, smaller))
    )


class RelationAccuracy(PairMetric):
    """Relation accuracy over all images, in any number of processes; ``sig_ratio`` is about the annotated masks."""

    higher_is_better = True
    size = len(RelationCounts._fields)

    def update(
        self,
        instances: InstanceSet,
        stats: PairStats,
        relation: Relation,
        matches: Matches,
        target: GroundTruthRelation,
    ) -> None:
        """Adds one image; see ``relation_counts``."""
        self.add({"counts": np.array(relation_counts(instances, stats, relation, matches, target, self.sig_ratio))})

    def compute(self) -> RelationScores:
        """The scores so far, as fractions."""
        counts = RelationCounts(*self.counts.tolist())
        hits = counts.correct, counts.score_correct, counts.area_correct
        accuracy, of_score, of_area = (share(correct, counts.pairs) for correct in hits)
        coverage = share(counts.pairs, counts.known_pairs)
        return RelationScores(accuracy, coverage, counts.pairs, counts.known_pairs, of_score, of_area)


def _detection_of(matches: Int64[np.ndarray, " n"], detections: int, annotations: int) -> Int64[np.ndarray, " k"]:
    """The detection of each annotation, -1 without one."""
    matched = (matches >= 0).nonzero()[0]
    owners = matches[matched]
    if len(matches) != detections or len(set(owners.tolist())) != len(owners) or (owners >= annotations).any():
        raise ValueError(
            f"matches {matches.tolist()} must give each of the {detections} detections its own annotation "
            f"(0 .. {annotations - 1}) or -1"
        )
    detection = np.full(annotations, -1)
    detection[owners] = matched
    return detection
