"""Cycle rate and share decided by score, against loops over pairs and triples."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from panoptic_occ.metrics.order.profile import OrderCounts, OrderProfile, has_cycle, order_counts
from panoptic_occ.structures.instances import InstanceSet
from panoptic_occ.structures.masks import MaskCrops, PairStats
from panoptic_occ.structures.relation import Relation


def detections(n, scores=None):
    scores = torch.linspace(0.9, 0.5, n) if scores is None else torch.tensor(scores)
    masks = MaskCrops.from_dense(torch.ones(n, 2, 2, dtype=torch.bool))
    return InstanceSet(masks, torch.zeros(n, 4), scores, torch.zeros(n, dtype=torch.int64))


def stats(n, apart=()):
    """Masks of 10 px that share 5 with every other one, except for the pairs in ``apart``."""
    inter = torch.full((n, n), 5).fill_diagonal_(10)
    for i, j in apart:
        inter[i, j] = inter[j, i] = 1
    return PairStats(torch.full((n,), 10), inter)


def answers(n, front, **more):
    """An antisymmetric relation from pairs (i, j): i in front of j."""
    margin = torch.zeros(n, n)
    for i, j in front:
        margin[i, j], margin[j, i] = 1.0, -1.0
    return Relation(margin, margin != 0, **more)


CYCLE = [(0, 1), (1, 2), (2, 0)]


class TestThreeInstances:
    @pytest.mark.parametrize("scores", [None, [0.7, 0.7, 0.7]])  # a cycle: O(A,B) = O(B,C) = O(C,A) = .6
    def test_E3_cyclic_triple(self, scores):
        assert order_counts(detections(3, scores), stats(3), answers(3, CYCLE), 0.2) == OrderCounts(3, 0, 1, 1, 1)

    def test_transitive_triple(self):
        found = answers(3, [(2, 1), (1, 0), (2, 0)])
        assert order_counts(detections(3), stats(3), found, 0.2) == OrderCounts(3, 0, 1, 0, 0)

    def test_a_pair_that_hardly_overlaps_opens_the_triple(self):
        assert order_counts(detections(3), stats(3, [(0, 2)]), answers(3, CYCLE), 0.2) == OrderCounts(2, 0, 0, 0, 0)
        assert order_counts(detections(3), stats(3, [(0, 2)]), answers(3, CYCLE), 0.1) == OrderCounts(3, 0, 1, 1, 1)

    @pytest.mark.parametrize("silence", ["not valid", "zero", "nan"])
    def test_a_silent_pair_goes_by_score_and_is_in_no_triple(self, silence):
        found = answers(3, CYCLE)
        if silence == "not valid":
            found.valid[0, 1] = found.valid[1, 0] = False
        else:
            found.margin[0, 1] = found.margin[1, 0] = 0 if silence == "zero" else torch.nan
        assert order_counts(detections(3), stats(3), found, 0.2) == OrderCounts(3, 1, 0, 0, 0)

    def test_score_decides_what_the_method_says_it_decides(self):
        by_score = torch.zeros(3, 3, dtype=torch.bool)
        by_score[0, 2] = by_score[2, 0] = True
        found = answers(3, CYCLE, score_decides=by_score)
        assert order_counts(detections(3), stats(3), found, 0.2) == OrderCounts(3, 1, 1, 1, 1)

    def test_an_order_of_its_own_decides_every_pair(self):
        silent = answers(3, [], order=torch.tensor([2, 0, 1]))
        assert order_counts(detections(3), stats(3), silent, 0.2) == OrderCounts(3, 0, 1, 0, 0)
        # offered 2, 0, 1: the later 1 takes from 2 although 0 stays behind 2 and in front of 1
        reclaiming = answers(3, [(1, 2)], order=torch.tensor([2, 0, 1]))
        assert order_counts(detections(3), stats(3), reclaiming, 0.2) == OrderCounts(3, 0, 1, 1, 1)

    def test_one_direction_is_read(self):
        raw = Relation(torch.ones(3, 3), torch.ones(3, 3, dtype=torch.bool).tril(-1), antisymmetric=False)
        assert order_counts(detections(3), stats(3), raw, 0.2) == OrderCounts(3, 0, 1, 0, 0)


def test_a_cycle_of_four_is_seen_though_no_triple_is_closed():
    found = answers(4, [(0, 1), (1, 2), (2, 3), (3, 0)])
    assert order_counts(detections(4), stats(4, [(0, 2), (1, 3)]), found, 0.2) == OrderCounts(4, 0, 0, 0, 1)


@pytest.mark.parametrize("n", [0, 1])
def test_nothing_to_decide(n):
    profile = OrderProfile()
    profile.update(detections(n), stats(n), answers(n, []))
    result = profile.compute()
    assert math.isnan(result.cycle_rate) and math.isnan(result.by_score) and result.overlaps == 0


def slow_counts(instances, stats_, found, sig_ratio):
    """The definitions, pair by pair and triple by triple."""
    n = len(instances)
    order = sorted(range(n), key=lambda i: (-float(instances.scores[i]), i))
    order = order if found.order is None else found.order.tolist()
    front, pairs, by_score = set(), 0, 0
    for k, later in enumerate(order):
        for earlier in order[:k]:
            inter = int(stats_.inter[later, earlier])
            if inter == 0 or inter / min(int(stats_.area[later]), int(stats_.area[earlier])) < sig_ratio:
                continue
            pairs += 1
            margin = float(found.margin[later, earlier])
            speaks = bool(found.valid[later, earlier]) and (margin > 0 or margin < 0)
            decided = speaks or found.order is not None
            told = found.score_decides is not None and bool(found.score_decides[later, earlier])
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

    def integers(high, *shape):
        return torch.randint(high, shape, generator=generator)

    inter = integers(5, n, n).triu(1)
    area = integers(6, n) + 8
    margin = (integers(5, n, n) - 2).float()
    margin[integers(10, n, n) == 0] = torch.nan
    order = torch.randperm(n, generator=generator) if draw(st.booleans()) else None
    decides = integers(4, n, n) == 0 if draw(st.booleans()) else None
    found = Relation(margin, integers(4, n, n) > 0, order, score_decides=decides, antisymmetric=False)
    scores = (integers(4, n) / 4.0).tolist()
    return detections(n, scores), PairStats(area, inter + inter.T + torch.diag(area)), found


@settings(max_examples=200, deadline=None)
@given(scene=scenes())
def test_equals_the_loop(scene):
    assert order_counts(*scene, 0.2) == slow_counts(*scene, 0.2)


def test_a_quarter_of_random_triples_is_cyclic():
    generator = torch.Generator().manual_seed(0)
    profile = OrderProfile()
    for _ in range(100):
        margin = torch.randn(20, 20, generator=generator).triu(1)
        profile.update(detections(20), stats(20), Relation(margin - margin.T, torch.ones(20, 20, dtype=torch.bool)))
    result = profile.compute()
    assert result.triples == 100 * 1140
    assert result.cycle_rate == pytest.approx(0.25, abs=0.01)  # of 114000 triples; each is a cycle in 2 of 8 ways
    assert result.cyclic_images == 100


def test_the_split_over_processes_does_not_matter():
    images = [(detections(3), stats(3), found) for found in (answers(3, CYCLE), answers(3, []), answers(3, CYCLE[:2]))]
    whole, part, rest = OrderProfile(), OrderProfile(), OrderProfile()
    for image in images:
        whole.update(*image)
    part.update(*images[2])
    rest.update(*images[0])
    rest.update(*images[1])
    part.merge_state(rest)
    assert whole.compute() == part.compute() == (1.0, 4 / 9, 9, 1, 1, 1)
    assert whole.compute().as_dict()["cycles"] == 1


def test_has_cycle_reads_directions():
    chain = torch.tensor([[0, 1, 1], [0, 0, 1], [0, 0, 0]], dtype=torch.bool)
    assert not has_cycle(chain) and not has_cycle(torch.zeros(0, 0, dtype=torch.bool))
    assert has_cycle(chain | chain.T)
