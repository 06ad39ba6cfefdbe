"""Relation accuracy by hand, and against a loop over pairs."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.orders import detections, integers, relation, truth
from panoptic_occ.metrics.order.relation_accuracy import RelationAccuracy, relation_counts
from panoptic_occ.structures.masks import PairStats
from panoptic_occ.structures.relation import GroundTruthRelation, Relation


def stats(areas):
    areas = torch.tensor(areas, dtype=torch.int64)
    return PairStats(areas, areas.diag())


def claims(n, *above, order=None):
    """A relation of separate claims to lie above another one, which may contradict each other."""
    margin, valid = torch.full((n, n), -1.0), torch.zeros(n, n, dtype=torch.bool)
    for front, back in above:
        margin[front, back], valid[front, back] = 1.0, True
    return Relation(margin, valid, order=None if order is None else torch.tensor(order), antisymmetric=False)


def scores_of(n, areas, relation_, matches, target, sig_ratio=0.2):
    metric = RelationAccuracy(sig_ratio)
    metric.update(detections(n), stats(areas), relation_, torch.tensor(matches, dtype=torch.int64), target)
    return metric.compute()


NAN = Relation(torch.full((2, 2), math.nan), torch.ones(2, 2, dtype=torch.bool))
NOT_VALID = Relation(torch.tensor([[0.0, 0.0], [3.0, 0.0]]), torch.zeros(2, 2, dtype=torch.bool))


@pytest.mark.parametrize(
    ("said", "matches", "front", "accuracy"),
    [
        (claims(2, (1, 0)), [1, 0], (0, 1), 1.0),  # the later one in front
        (claims(2), [1, 0], (0, 1), 0.0),  # without a word the earlier one stays in front
        (claims(2, (0, 1), (1, 0)), [0, 1], (1, 0), 1.0),  # both claim to lie above; the later one is asked
        (claims(2, (0, 1)), [0, 1], (0, 1), 1.0),
        (claims(2, order=[1, 0]), [0, 1], (1, 0), 1.0),  # the relation's order decides who is later
        (claims(2, (0, 1), order=[1, 0]), [0, 1], (0, 1), 1.0),
        (NOT_VALID, [0, 1], (0, 1), 1.0),
        (NAN, [0, 1], (0, 1), 1.0),
    ],
)
def test_one_pair(said, matches, front, accuracy):
    """Detection 0 has the higher score, detection 1 the smaller mask."""
    result = scores_of(2, [8, 4], said, matches, truth(2, [front]))
    by_score = float(matches[0] == front[0])
    assert result == (accuracy, 1.0, 1, 1, by_score, 1 - by_score)


@pytest.mark.parametrize(("front", "expected"), [((0, 1), 1.0), ((1, 0), 0.0)])
def test_equal_areas_go_by_score(front, expected):
    assert scores_of(2, [6, 6], claims(2), [0, 1], truth(2, [front])).area_accuracy == expected


@pytest.mark.parametrize(
    ("target", "sig_ratio", "pairs", "known"),
    [
        (truth(3, [(0, 1), (1, 2)]), 0.2, 1, 2),  # an instance that is not detected costs coverage
        (truth(2, [(0, 1)], inter=1), 0.2, 0, 0),
        (truth(2, [(0, 1)], inter=1), 0.1, 1, 1),
        (truth(2, [(0, 1), (1, 0)]), 0.2, 0, 0),  # tied
    ],
)
def test_which_pairs_count(target, sig_ratio, pairs, known):
    result = scores_of(2, [8, 4], claims(2), [0, 1], target, sig_ratio)
    assert (result.pairs, result.known_pairs) == (pairs, known)
    assert not known or (result.accuracy, result.coverage) == (1.0, pairs / known)


@pytest.mark.parametrize("n", [0, 1, 2])
def test_nothing_to_compare_is_nan(n):
    result = scores_of(n, [4] * n, claims(n), [-1] * n, truth(0, []))
    assert all(math.isnan(v) for v in (result.accuracy, result.coverage, result.score_accuracy))
    unmatched = scores_of(n, [4] * n, claims(n), [-1] * n, truth(2, [(0, 1)]))
    assert math.isnan(unmatched.area_accuracy) and unmatched.coverage == 0


@pytest.mark.parametrize("matches", [[0, 0], [0, 2], [0]])
def test_impossible_matches(matches):
    with pytest.raises(ValueError, match=r"its own annotation \(0 \.\. 1\) or -1"):
        scores_of(2, [4, 4], claims(2), matches, truth(2, [(0, 1)]))


@st.composite
def scenes(draw):
    n, k = draw(st.integers(0, 5)), draw(st.integers(0, 5))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    inter = integers(generator, 6, k, k).triu(1)
    own = integers(generator, 6, k, k).minimum(inter + inter.T)
    target = GroundTruthRelation(integers(generator, 20, k) + 6, integers(generator, 20, k), inter + inter.T, own)
    instances = detections(n, (integers(generator, 4, n) / 4.0).sort(descending=True).values.tolist())
    order = None if draw(st.booleans()) else torch.randperm(n, generator=generator)
    said = Relation(torch.randn(n, n, generator=generator), torch.rand(n, n, generator=generator) > 0.3, order)
    candidates = torch.cat([torch.arange(k), torch.full((n,), -1)])
    matches = candidates[torch.randperm(k + n, generator=generator)][:n]
    return instances, stats(integers(generator, 3, n).tolist()), said, matches, target


@settings(max_examples=200, deadline=None)
@given(scene=scenes())
def test_equals_pairwise_loop(scene):
    """Also when the matches come late, which they do only when an order is known."""
    instances, stats_, said, matches, target = scene
    known = pairs = correct = by_score = by_area = 0
    owner = matches.tolist()
    order = list(range(len(instances))) if said.order is None else said.order.tolist()
    for a in range(len(target)):
        for b in range(a):
            inter = int(target.inter[a, b])
            lead = int(target.visible[a, b] - target.visible[b, a])
            if inter == 0 or lead == 0 or max(inter / int(target.area[a]), inter / int(target.area[b])) < 0.2:
                continue
            known += 1
            if a not in owner or b not in owner:
                continue
            pairs += 1
            front, back = owner.index(a if lead > 0 else b), owner.index(b if lead > 0 else a)
            later, earlier = sorted((front, back), key=order.index, reverse=True)
            reclaims = bool(said.valid[later, earlier]) and float(said.margin[later, earlier]) > 0
            correct += (later if reclaims else earlier) == front
            by_score += front < back
            area = stats_.area.tolist()
            by_area += (area[front], front) < (area[back], back)
    expected, calls = (known, pairs, correct, by_score, by_area), []
    assert relation_counts(instances, stats_, said, matches, target, 0.2) == expected
    assert relation_counts(instances, stats_, said, lambda: calls.append(1) or matches, target, 0.2) == expected
    assert len(calls) == (known > 0)


def test_metric_adds_images_up():
    metric = RelationAccuracy()
    for front in ([(1, 0)], [], [(1, 0)]):
        metric.update(detections(2), stats([8, 4]), relation(2, front), torch.arange(2), truth(2, [(1, 0)]))
    assert metric.compute() == (2 / 3, 1.0, 3, 3, 0.0, 1.0)
