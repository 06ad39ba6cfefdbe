"""How often a relation names the right instance of an overlapping pair, beside what score and area would have said;
and the same as RAP counts it, in the pairs that the fusion meets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int, Int64
from torch import Tensor

from panoptic_occ.metrics.counting import PairMetric, share
from panoptic_occ.structures.instances import InstanceSet
from panoptic_occ.structures.masks import PairStats
from panoptic_occ.structures.panoptic_map import InstanceRecord
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


COMPARED = frozenset({"kept", "occluded", "erased"})
"""What becomes of the instances that the fusion compares with others; it drops the rest before."""


class CanvasScores(NamedTuple):
    """Fraction of the ``pairs`` of all images that are right (NaN without any)."""

    accuracy: float
    pairs: int


def canvas_counts(
    records: Sequence[InstanceRecord],
    relation: Relation,
    matches: Matches,
    target: GroundTruthRelation,
    sig_ratio: float,
) -> tuple[int, int]:
    """The pairs that the fusion meets and whose annotations have a known order in one image, and how many are right.

    ``matches``: the closest annotations; several detections may share one, and each counts.  A pair is an instance that
    passed the checks for repetitions, and one that owned pixels of it when the fusion came to it (``records[i].met``);
    it is right if the relation puts the later one above exactly when its annotation lies above.  The order of two
    annotations is that of ``relation_counts`` (majority rule, overlap ``sig_ratio``).

    Unlike ``relation_counts`` this also rates detections that fit no annotation well, and counts a pair of annotations
    as often as the fusion meets it.  Two oddities of the released script are left out: here annotation 0 counts, and a
    detection that meets no annotated box stands for none.
    """
    order = target.matrix(sig_ratio, "majority").tolist()
    if not any(entry >= 0 for row in order for entry in row):
        return 0, 0
    annotation: list[int] = (matches() if callable(matches) else matches).tolist()
    above = relation.above().tolist()
    pairs = correct = 0
    for later, record in enumerate(records):
        if record.status not in COMPARED or annotation[later] < 0:
            continue
        for earlier in record.met:
            answer = order[annotation[later]][annotation[earlier]] if annotation[earlier] >= 0 else -1
            pairs += answer >= 0
            correct += answer >= 0 and above[later][earlier] == (answer == 1)
    return pairs, correct


class CanvasAccuracy(PairMetric):
    """RAP's relation accuracy over all images, in any number of processes; ``sig_ratio`` is about annotated masks."""

    higher_is_better = True
    size = 2

    def update(
        self, records: Sequence[InstanceRecord], relation: Relation, matches: Matches, target: GroundTruthRelation
    ) -> None:
        """Adds one image; see ``canvas_counts``."""
        self.add({"counts": np.array(canvas_counts(records, relation, matches, target, self.sig_ratio))})

    def compute(self) -> CanvasScores:
        """The scores so far."""
        pairs, correct = self.counts.tolist()
        return CanvasScores(share(correct, pairs), pairs)


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
