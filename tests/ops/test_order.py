"""Cycles and topological orders, against brute force over all permutations."""

from graphlib import CycleError
from itertools import permutations

import numpy as np
import pytest
import torch

from panoptic_occ.ops.order import acyclic, ranked_pairs, topological_order


def agrees(order, pairs):
    return all(order.index(above) < order.index(below) for above, below in pairs)


def test_the_pair_that_closes_a_cycle_is_set_aside():
    assert acyclic([(0, 1), (2, 0), (1, 2)], 3) == [(0, 1), (2, 0)]
    assert acyclic([(0, 1), (1, 2), (2, 3), (3, 0), (0, 3)], 4) == [(0, 1), (1, 2), (2, 3), (0, 3)]
    assert acyclic([], 0) == []


@pytest.mark.parametrize("seed", range(40))
def test_kept_pairs_and_the_order_against_all_permutations(seed):
    rng = np.random.default_rng(seed)
    n = 5
    pairs = [(int(i), int(j)) for i, j in rng.permutation([(i, j) for i in range(n) for j in range(n) if i < j])]
    pairs = [pair if rng.random() < 0.5 else pair[::-1] for pair in pairs[: rng.integers(0, 11)]]
    expected = []
    for pair in pairs:
        if any(agrees(order, [*expected, pair]) for order in permutations(range(n))):
            expected.append(pair)
    kept = acyclic(pairs, n)
    assert kept == expected

    ranking = rng.permutation(n).tolist()
    order, left = [], list(ranking)
    while left:  # the best ranked instance that nobody left lies above
        chosen = next(i for i in left if not any(below == i and above in left for above, below in kept))
        left.remove(chosen)
        order.append(chosen)
    assert topological_order(ranking, kept) == order
    assert agrees(order, kept)


def test_without_pairs_the_ranking_stands():
    assert topological_order([3, 1, 2], []) == [3, 1, 2]
    assert topological_order([], []) == []


def test_contradicting_pairs_have_no_order():
    with pytest.raises(CycleError):
        topological_order([0, 1], [(0, 1), (1, 0)])


def test_ranked_pairs_go_by_the_better_then_the_worse_instance():
    where = torch.zeros((4, 4), dtype=torch.bool)
    for i, j in ((0, 1), (0, 2), (1, 2), (2, 3)):
        where[i, j] = where[j, i] = True
    assert ranked_pairs(where, [2, 0, 1]) == [(2, 0), (2, 1), (0, 1)]
    assert ranked_pairs(where[:0, :0], []) == []
