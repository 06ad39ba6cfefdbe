"""What kind of order a method gives: how often it contradicts itself, and how often the scores alone decide."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int64
from torch import Tensor
from torchmetrics import Metric

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

    def as_dict(self) -> dict[str, float]:
        """The scores by name."""
        return self._asdict()


def order_counts(instances: InstanceSet, stats: PairStats, relation: Relation, sig_ratio: float) -> OrderCounts:
    """Profile of one relation; it looks at pairs whose masks overlap by ``sig_ratio`` of one of the two.

    A relation is read as the fusion reads it: of two instances the one offered later lies above if the margin says so.
    Where the margin is not valid, 0 or NaN, the relation is silent and the order of the offers stands: of the scores,
    unless the method gives an order of its own, which then decides every pair.  ``by_score`` are the silent pairs in
    the order of the scores, and those in ``relation.score_decides``.  Cycles are counted among pairs on which the
    method is not silent; of random answers a quarter of the triples are cycles, of a transitive order none.
    """
    offered = relation.order
    if offered is None:
        offered = torch.argsort(instances.scores, descending=True, stable=True)
    later = torch.argsort(offered).cpu().numpy()
    pairs = stats.significant(sig_ratio).cpu().numpy() & (later[:, None] > later[None, :])  # [later, earlier]
    above = relation.above().cpu().numpy()
    spoken = pairs if relation.order is not None else pairs & _speaks(relation)
    by_score = pairs & ~spoken
    if relation.score_decides is not None:
        by_score |= pairs & relation.score_decides.cpu().numpy()
    front = (pairs & above) | (spoken & ~above).T
    linked = front | front.T
    return OrderCounts(
        pairs=int(np.count_nonzero(pairs)),
        by_score=int(np.count_nonzero(by_score)),
        triples=_closed_walks(linked) // 6,  # each from three instances in two directions
        cycles=_closed_walks(front) // 3,
        cyclic_images=int(has_cycle(front)),
    )


def has_cycle(front: Bool[Tensor, "n n"] | Bool[np.ndarray, "n n"]) -> bool:
    """Whether following ``front[i, j]`` (i in front of j) can lead back to where it began."""
    left = np.asarray(front)
    while len(left):
        inner = left.any(axis=0) & left.any(axis=1)  # a cycle both enters and leaves everyone on it
        if inner.all():
            return True
        left = left[inner][:, inner]
    return False


class OrderProfile(Metric):
    """Cycle rate and share decided by score over all images, in any number of processes (the states are counts).

    ``sig_ratio``: overlap, as a share of one of two masks, from which a pair counts (OCFusion's rho).
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False

    counts: Int64[Tensor, " k"]

    def __init__(self, sig_ratio: float = 0.2, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.sig_ratio = sig_ratio
        self.add_state("counts", torch.zeros(len(OrderCounts._fields), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, instances: InstanceSet, stats: PairStats, relation: Relation) -> None:
        """Adds one image; see ``order_counts``."""
        counts = order_counts(instances, stats, relation, self.sig_ratio)
        self.counts += torch.tensor(counts, device=self.counts.device)

    def compute(self) -> OrderScores:
        """The scores so far."""
        counts = OrderCounts(*self.counts.tolist())
        return OrderScores(
            cycle_rate=counts.cycles / counts.triples if counts.triples else float("nan"),
            by_score=counts.by_score / counts.pairs if counts.pairs else float("nan"),
            overlaps=counts.pairs,
            triples=counts.triples,
            cycles=counts.cycles,
            cyclic_images=counts.cyclic_images,
        )


def _speaks(relation: Relation) -> Bool[np.ndarray, "n n"]:
    """Where the method says anything."""
    speaks: np.ndarray = (relation.valid & (relation.margin.abs() > 0)).cpu().numpy()
    return speaks


def _closed_walks(edges: Bool[np.ndarray, "n n"]) -> int:
    """Walks along three edges that end where they began, counted from each of their instances."""
    step = edges.astype(np.float64)  # exact up to 2^53, and many times faster than integers
    return int(((step @ step) * step.T).sum())
