"""How often a method names the right instance of an overlapping pair, beside what score and area would have said."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from jaxtyping import Int, Int64
from torch import Tensor
from torchmetrics import Metric

from panoptic_occ.masks import PairStats
from panoptic_occ.structures import GroundTruthRelation, InstanceSet, Relation

_STATES = ("known", "pairs", "correct", "score_correct", "area_correct")


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

    def as_dict(self) -> dict[str, float]:
        """The scores by name."""
        return self._asdict()


def relation_counts(
    instances: InstanceSet,
    stats: PairStats,
    relation: Relation,
    matches: Int[Tensor, " n"],
    target: GroundTruthRelation,
    sig_ratio: float,
) -> RelationCounts:
    """Compares a relation with the annotated order of one image.

    ``matches[n]``: index of the annotation that detection n stands for, -1 without one, one to one.  Annotated pairs
    count when their order is known at ``sig_ratio`` (majority rule, OCFusion 3.2) and both instances are detected.  The
    front instance is the one that the fusion would put there: of the two, the one it is offered later lies in front if
    the relation says so, else the earlier one.  Score: the higher one (earlier) is in front; area: the smaller
    mask of ``stats``, on a tie the higher score.  Raises ValueError when ``matches`` contradicts the other inputs.
    """
    matches = matches.cpu()
    detection = _detection_of(matches, len(instances), len(target))
    order = target.to("cpu").matrix(sig_ratio, "majority")
    first, second = (order >= 0).triu(diagonal=1).nonzero().unbind(dim=1)
    known = len(first)
    a, b = detection[first], detection[second]
    detected = (a >= 0) & (b >= 0)
    a, b = a[detected], b[detected]
    truth = torch.where(order[first, second][detected] == 1, a, b)

    by_score = torch.argsort(instances.scores.cpu(), descending=True, stable=True)
    offered = by_score if relation.order is None else relation.order.cpu()
    earlier, later = _sorted_pair(a, b, offered)
    front = torch.where(relation.above().cpu()[later, earlier], later, earlier)
    higher, lower = _sorted_pair(a, b, by_score)
    area = stats.area.cpu()
    smaller = torch.where(area[lower] < area[higher], lower, higher)
    hits = (int((guess == truth).sum()) for guess in (front, higher, smaller))
    return RelationCounts(known, len(truth), *hits)


class RelationAccuracy(Metric):
    """Relation accuracy over all images, in any number of processes (the states are counts).

    ``sig_ratio``: annotated pairs need an intersection of this share of one of the two masks (OCFusion's rho).
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    known: Int64[Tensor, ""]
    pairs: Int64[Tensor, ""]
    correct: Int64[Tensor, ""]
    score_correct: Int64[Tensor, ""]
    area_correct: Int64[Tensor, ""]

    def __init__(self, sig_ratio: float = 0.2, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.sig_ratio = sig_ratio
        for name in _STATES:
            self.add_state(name, torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(
        self,
        instances: InstanceSet,
        stats: PairStats,
        relation: Relation,
        matches: Int[Tensor, " n"],
        target: GroundTruthRelation,
    ) -> None:
        """Adds one image; see ``relation_counts``."""
        counts = relation_counts(instances, stats, relation, matches, target, self.sig_ratio)
        for name in _STATES:
            state: Tensor = getattr(self, name)
            state += getattr(counts, name)

    def compute(self) -> RelationScores:
        """The scores so far, as fractions."""
        counts = RelationCounts(*(int(getattr(self, name)) for name in _STATES))
        return RelationScores(
            accuracy=_share(counts.correct, counts.pairs),
            coverage=_share(counts.pairs, counts.known),
            pairs=counts.pairs,
            known_pairs=counts.known,
            score_accuracy=_share(counts.score_correct, counts.pairs),
            area_accuracy=_share(counts.area_correct, counts.pairs),
        )


def _detection_of(matches: Int[Tensor, " n"], detections: int, annotations: int) -> Int64[Tensor, " k"]:
    """The detection of each annotation, -1 without one."""
    matched = (matches >= 0).nonzero().flatten()
    found = matches[matched]
    if len(matches) != detections or len(set(found.tolist())) != len(found) or (found >= annotations).any():
        raise ValueError(
            f"matches {matches.tolist()} must give each of the {detections} detections its own annotation "
            f"(0 .. {annotations - 1}) or -1"
        )
    detection = torch.full((annotations,), -1, dtype=torch.int64)
    detection[found] = matched
    return detection


def _sorted_pair(a: Tensor, b: Tensor, order: Tensor) -> tuple[Tensor, Tensor]:
    """Of each pair, the one that comes earlier in ``order`` and the one that comes later."""
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order))
    swap = rank[a] > rank[b]
    return torch.where(swap, b, a), torch.where(swap, a, b)


def _share(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")
