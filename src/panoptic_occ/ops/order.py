"""From pairs to a total order: which pairs contradict each other, and an order that agrees with the others."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from graphlib import TopologicalSorter
from heapq import heappop, heappush

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

Pair = tuple[int, int]
"""(above, below): the first instance lies above the second."""


def acyclic(pairs: Iterable[Pair], count: int) -> list[Pair]:
    """``pairs`` of ``count`` instances without those that close a cycle with the ones before (BANet 4.3)."""
    reach = np.eye(count, dtype=bool)  # [i, j]: a path of kept pairs leads from i down to j
    kept = []
    for above, below in pairs:
        if not reach[below, above]:
            reach[reach[:, above]] |= reach[below]
            kept.append((above, below))
    return kept


def topological_order(ranking: Sequence[int], pairs: Iterable[Pair]) -> list[int]:
    """The instances of ``ranking``, each after all that lie above it; the best ranked of several possible ones is next
    (Kahn's algorithm).  Raises ``graphlib.CycleError`` when the pairs contradict each other."""
    sorter: TopologicalSorter[int] = TopologicalSorter(dict.fromkeys(ranking, ()))
    for above, below in pairs:
        sorter.add(below, above)
    sorter.prepare()
    rank = {instance: k for k, instance in enumerate(ranking)}
    ready: list[int] = []
    order = []
    while sorter.is_active():
        for instance in sorter.get_ready():
            heappush(ready, rank[instance])
        order.append(ranking[heappop(ready)])
        sorter.done(order[-1])
    return order


def ranked_pairs(where: Bool[Tensor, "n n"], ranking: Sequence[int]) -> list[Pair]:
    """(better, worse) of the pairs of ``ranking`` in ``where``: all of the best instance, then of the second, ..."""
    index = torch.tensor(ranking, dtype=torch.int64, device=where.device)
    return [(ranking[i], ranking[j]) for i, j in where[index][:, index].triu(diagonal=1).nonzero().tolist()]
