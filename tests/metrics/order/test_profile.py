"""Cycle rate and share decided by score, against loops over pairs and triples."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.orders import detections, integers, relation
from panoptic_occ.metrics.order.profile import OrderCounts, OrderProfile, has_cycle, order_counts
from panoptic_occ.structures.masks import PairStats
from panoptic_occ.structures.relation import Relation


def stats(n, apart=()):
    """Masks of 10 px that share 5 with every other one, except for the pairs in ``apart``."""
    inter = torch.full((n, n), 5).fill_diagonal_(10)
    for i, j in apart:
        inter[i, j] = inter[j, i] = 1
    return PairStats(torch.full((n,), 10), inter)


def silent(margin=0.0, valid=False):
    """A cycle of three, of which one pair is told nothing."""
    said = relation(3, CYCLE)
    said.margin[0, 1] = said.margin[1, 0] = margin
    said.valid[0, 1] = said.valid[1, 0] = valid
    return said


CYCLE = [(0, 1), (1, 2), (2, 0)]
BY_SCORE = torch.eye(3, dtype=torch.bool).flip(0)  # the pair (0, 2)
LOWER = Relation(torch.ones(3, 3), torch.ones(3, 3, dtype=torch.bool).tril(-1), antisymmetric=False)


@pytest.mark.parametrize(
    ("said", "apart", "sig_ratio", "expected"),
    [
        pytest.param(relation(3, CYCLE), (), 0.2, (3, 0, 1, 1, 1), id="cyclic"),
        pytest.param(relation(3, [(2, 1), (1, 0), (2, 0)]), (), 0.2, (3, 0, 1, 0, 0), id="transitive"),
        pytest.param(relation(3, CYCLE), [(0, 2)], 0.2, (2, 0, 0, 0, 0), id="a small overlap opens the triple"),
        pytest.param(relation(3, CYCLE), [(0, 2)], 0.1, (3, 0, 1, 1, 1), id="unless it counts"),
        pytest.param(silent(margin=1.0), (), 0.2, (3, 1, 0, 0, 0), id="a silent pair goes by score: not valid"),
        pytest.param(silent(valid=True), (), 0.2, (3, 1, 0, 0, 0), id="zero"),
        pytest.param(silent(math.nan, True), (), 0.2, (3, 1, 0, 0, 0), id="nan"),
        pytest.param(relation(3, CYCLE, score_decides=BY_SCORE), (), 0.2, (3, 1, 1, 1, 1), id="told to go by score"),
        pytest.param(relation(3, order=torch.tensor([2, 0, 1])), (), 0.2, (3, 0, 1, 0, 0), id="its order decides all"),
        # the sequence is 2, 0, 1: the later 1 takes from 2 although 0 stays behind 2 and in front of 1
        pytest.param(relation(3, [(1, 2)], order=torch.tensor([2, 0, 1])), (), 0.2, (3, 0, 1, 1, 1), id="with a cycle"),
        pytest.param(LOWER, (), 0.2, (3, 0, 1, 0, 0), id="one direction is read"),
        pytest.param(
            relation(4, [(0, 1), (1, 2), (2, 3), (3, 0)]), [(0, 2), (1, 3)], 0.2, (4, 0, 0, 0, 1), id="a cycle of four"
        ),
    ],
)
@pytest.mark.parametrize("score", ["falling", "equal"])
def test_counts_by_hand(said, apart, sig_ratio, expected, score):
    n = len(said.margin)
    instances = detections(n, None if score == "falling" else [0.7] * n)
    assert order_counts(instances, stats(n, apart), said, sig_ratio) == OrderCounts(*expected)


def slow_counts(instances, stats_, said, sig_ratio):
    """The definitions, pair by pair and triple by triple."""
    n = len(instances)
    order = sorted(range(n), key=lambda i: (-float(instances.scores[i]), i))
    order = order if said.order is None else said.order.tolist()
    front, pairs, by_score = set(), 0, 0
    for k, later in enumerate(order):
        for earlier in order[:k]:
            inter = int(stats_.inter[later, earlier])
            if inter == 0 or inter / min(int(stats_.area[later]), int(stats_.area[earlier])) < sig_ratio:
                continue
            pairs += 1
            margin = float(said.margin[later, earlier])
            speaks = bool(said.valid[later, earlier]) and (margin > 0 or margin < 0)
            decided = speaks or said.order is not None
            told = said.score_decides is not None and bool(said.score_decides[later, earlier])
            by_score += told or not decided
            if decided:
                front.add((later, earlier) if speaks and margin > 0 else (earlier, later))
    linked = front | {(b, a) for a, b in front}
    triples = [t for t in itertools.combinations(range(n), 3) if all(p in linked for p in itertools.combinations(t, 2))]
    cycles = [t for t in triples if {(t[0], t[1]), (t[1], t[2]), (t[2], t[0])} <= front
              or {(t[1], t[0]), (t[2], t[1]), (t[0], t[2])} <= front]  # fmt: skip
    left = set(range(n))  # take away whoever nobody in front is left for; a cycle never goes
    while free := {i for i in left if not any(j in left for j, k in front if k == i)}:
        left -= free
    return OrderCounts(pairs, by_score, len(triples), len(cycles), int(bool(left)))


@st.composite
def scenes(draw):
    n = draw(st.integers(0, 7))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    inter = integers(generator, 5, n, n).triu(1)
    area = integers(generator, 6, n) + 8
    margin = (integers(generator, 5, n, n) - 2).float()
    margin[integers(generator, 10, n, n) == 0] = torch.nan
    order = torch.randperm(n, generator=generator) if draw(st.booleans()) else None
    decides = integers(generator, 4, n, n) == 0 if draw(st.booleans()) else None
    said = Relation(margin, integers(generator, 4, n, n) > 0, order, score_decides=decides, antisymmetric=False)
    scores = (integers(generator, 4, n) / 4.0).tolist()
    return detections(n, scores), PairStats(area, inter + inter.T + torch.diag(area)), said


@settings(max_examples=200, deadline=None)
@given(scene=scenes())
def test_equals_the_loop(scene):
    assert order_counts(*scene, 0.2) == slow_counts(*scene, 0.2)


def test_metric_adds_images_up():
    profile = OrderProfile()
    assert all(math.isnan(share) for share in profile.compute()[:2]) and profile.compute().overlaps == 0
    for n, front in ((0, []), (1, []), (3, CYCLE), (3, []), (3, CYCLE[:2])):
        profile.update(detections(n), stats(n), relation(n, front))
    assert profile.compute() == (1.0, 4 / 9, 9, 1, 1, 1)


def test_has_cycle_reads_directions():
    chain = torch.tensor([[0, 1, 1], [0, 0, 1], [0, 0, 0]], dtype=torch.bool)
    assert not has_cycle(chain) and not has_cycle(torch.zeros(0, 0, dtype=torch.bool))
    assert has_cycle(chain | chain.T)
