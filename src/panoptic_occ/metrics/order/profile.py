"""What kind of relations an order gives: how often they contradict themselves, how often the scores alone decide."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from panoptic_occ.metrics.counting import PairMetric, share
from panoptic_occ.structures.instances import InstanceSet
from panoptic_occ.structures.masks import PairStats
from panoptic_occ.structures.relation import Relation


class OrderCounts(NamedTuple):
    """``pairs`` that overlap enough, those decided ``by_score`` alone; ``triples`` of instances with three decided
    pairs, those that are ``cycles`` (i above j above k above i); images with a cycle of any length."""

    pairs: int
    by_score: int
    triples: int
    cycles: int
    cyclic_images: int


class OrderScores(NamedTuple):
    """Over all images: ``cycle_rate`` = cycles / triples, ``by_score`` as a share of the pairs (NaN without any)."""

    cycle_rate: float
    by_score: float
    overlaps: int
    triples: int
    cycles: int
    cyclic_images: int


def order_counts(instances: InstanceSet, stats: PairStats, relation: Relation, sig_ratio: float) -> OrderCounts:
    """Profile of one relation; only pairs count whose masks overlap by ``sig_ratio`` of one of the two.

    A relation is read as the fusion reads it: of two instances the later one in the fusion's sequence lies above if the
    margin says so.  Where the margin is not valid, 0 or NaN, the relation is silent and the sequence decides: that of
    the scores, or that of ``relation.order``, which decides every pair.  ``by_score`` are the pairs that the sequence
    of the scores decides, and those in ``relation.score_decides``.  Cycles are counted among pairs on which the
    relation is not silent; of random relations a quarter of the triples are cycles, of transitive ones none.
    """
    sequence = relation.order
    if sequence is None:
        sequence = torch.argsort(instances.scores, descending=True, stable=True)
    turn = torch.argsort(sequence).cpu().numpy()
    pairs = stats.significant(sig_ratio).cpu().numpy() & (turn[:, None] > turn[None, :])  # [later, earlier]
    above = relation.above().cpu().numpy()
    decided = pairs
    if relation.order is None:
        decided = pairs & (relation.valid & (relation.margin.abs() > 0)).cpu().numpy()
    by_score = pairs & ~decided
    if relation.score_decides is not None:
        by_score |= pairs & relation.score_decides.cpu().numpy()
    front = (pairs & above) | (decided & ~above).T
    linked = front | front.T
    return OrderCounts(
        pairs=int(np.count_nonzero(pairs)),
        by_score=int(np.count_nonzero(by_score)),
        triples=_closed_walks(linked) // 6,  # each from three instances in two directions
        cycles=_closed_walks(front) // 3,
        cyclic_images=int(has_cycle(front)),
    )


def has_cycle(front: Bool[Tensor, "n n"] | Bool[np.ndarray, "n n"]) -> bool:
    """Whether the graph with edges ``front[i, j]`` (i in front of j) has a directed cycle."""
    components, _ = connected_components(np.asarray(front), connection="strong")
    return bool(components < len(front))  # else every instance is a component of its own


class OrderProfile(PairMetric):
    """Cycle rate and share decided by score over all images, in any number of processes."""

    higher_is_better = False
    size = len(OrderCounts._fields)

    def update(self, instances: InstanceSet, stats: PairStats, relation: Relation) -> None:
        """Adds one image; see ``order_counts``."""
        self.add({"counts": np.array(order_counts(instances, stats, relation, self.sig_ratio))})

    def compute(self) -> OrderScores:
        """The scores so far."""
        counts = OrderCounts(*self.counts.tolist())
        cycle_rate, by_score = share(counts.cycles, counts.triples), share(counts.by_score, counts.pairs)
        return OrderScores(cycle_rate, by_score, counts.pairs, counts.triples, counts.cycles, counts.cyclic_images)


def _closed_walks(edges: Bool[np.ndarray, "n n"]) -> int:
    """Number of walks along three edges that end where they began; each start of a walk counts."""
    step = edges.astype(np.float64)  # exact up to 2^53, and many times faster than integers
    return int(((step @ step) * step.T).sum())
