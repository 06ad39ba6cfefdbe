from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from panoptic_occ.metrics.order.relation_accuracy import RelationAccuracy, relation_counts
from panoptic_occ.structures.instances import InstanceSet
from panoptic_occ.structures.masks import MaskCrops, PairStats
from panoptic_occ.structures.relation import GroundTruthRelation, Relation


def detections(n, scores=None):
    scores = torch.linspace(0.9, 0.5, n) if scores is None else torch.tensor(scores)
    masks = MaskCrops.from_dense(torch.ones(n, 2, 2, dtype=torch.bool))
    return InstanceSet(masks, torch.zeros(n, 4), scores, torch.zeros(n, dtype=torch.int64))


def stats(areas):
    areas = torch.tensor(areas, dtype=torch.int64)
    return PairStats(areas, areas.diag())


def truth(pairs, n, area=10, inter=5):
    """``pairs``: (front, back); the front one owns the whole intersection."""
    common, own = torch.zeros(n, n, dtype=torch.int64), torch.zeros(n, n, dtype=torch.int64)
    for front, back in pairs:
        common[front, back] = common[back, front] = inter
        own[front, back] = inter
    areas = torch.full((n,), area)
    return GroundTruthRelation(areas, areas, common, own)


def relation(n, above=(), order=None):
    margin, valid = torch.full((n, n), -1.0), torch.zeros(n, n, dtype=torch.bool)
    for front, back in above:
        margin[front, back] = 1.0
        valid[front, back] = True
    return Relation(margin, valid, order=None if order is None else torch.tensor(order))


def scores_of(n, areas, relation_, matches, target, sig_ratio=0.2):
    metric = RelationAccuracy(sig_ratio)
    metric.update(detections(n), stats(areas), relation_, torch.tensor(matches, dtype=torch.int64), target)
    return metric.compute()


class TestOnePair:
    def test_later_one_in_front(self):
        # detection 1 (lower score, smaller) stands for annotation 0, which lies in front
        result = scores_of(2, [8, 4], relation(2, [(1, 0)]), [1, 0], truth([(0, 1)], 2))
        assert result == (1.0, 1.0, 1, 1, 0.0, 1.0)
        assert result.score_accuracy == 0.0

    def test_without_a_word_the_earlier_one_stays_in_front(self):
        result = scores_of(2, [8, 4], relation(2), [1, 0], truth([(0, 1)], 2))
        assert (result.accuracy, result.score_accuracy, result.area_accuracy) == (0.0, 0.0, 1.0)

    def test_only_the_entry_later_earlier_is_read(self):
        # a contradictory relation: both claim to lie above; the fusion asks the later one only
        both = relation(2, [(0, 1), (1, 0)])
        assert scores_of(2, [8, 4], both, [0, 1], truth([(1, 0)], 2)).accuracy == 1.0
        earlier_only = relation(2, [(0, 1)])
        assert scores_of(2, [8, 4], earlier_only, [0, 1], truth([(0, 1)], 2)).accuracy == 1.0

    def test_order_of_the_relation_decides_who_is_later(self):
        backwards = relation(2, order=[1, 0])
        result = scores_of(2, [8, 4], backwards, [0, 1], truth([(1, 0)], 2))
        assert (result.accuracy, result.score_accuracy) == (1.0, 0.0)
        # now 0 is the later one, and its claim counts
        claimed = relation(2, [(0, 1)], order=[1, 0])
        assert scores_of(2, [8, 4], claimed, [0, 1], truth([(0, 1)], 2)).accuracy == 1.0

    def test_invalid_and_nan_entries_say_nothing(self):
        margin = torch.tensor([[0.0, 0.0], [3.0, 0.0]])
        silent = Relation(margin, torch.zeros(2, 2, dtype=torch.bool))
        assert scores_of(2, [8, 4], silent, [0, 1], truth([(0, 1)], 2)).accuracy == 1.0
        nan = Relation(torch.full((2, 2), float("nan")), torch.ones(2, 2, dtype=torch.bool))
        assert scores_of(2, [8, 4], nan, [0, 1], truth([(0, 1)], 2)).accuracy == 1.0

    def test_equal_areas_go_by_score(self):
        assert scores_of(2, [6, 6], relation(2), [0, 1], truth([(0, 1)], 2)).area_accuracy == 1.0
        assert scores_of(2, [6, 6], relation(2), [0, 1], truth([(1, 0)], 2)).area_accuracy == 0.0


class TestWhichPairsCount:
    def test_undetected_instances_cost_coverage(self):
        target = truth([(0, 1), (1, 2)], 3)
        result = scores_of(2, [8, 4], relation(2), [0, 1], target)
        assert (result.accuracy, result.coverage, result.pairs, result.known_pairs) == (1.0, 0.5, 1, 2)

    def test_insignificant_and_tied_pairs_do_not_count(self):
        small = truth([(0, 1)], 2, inter=1)
        assert scores_of(2, [8, 4], relation(2), [0, 1], small, sig_ratio=0.2).known_pairs == 0
        assert scores_of(2, [8, 4], relation(2), [0, 1], small, sig_ratio=0.1).known_pairs == 1
        tied = truth([(0, 1), (1, 0)], 2)
        assert scores_of(2, [8, 4], relation(2), [0, 1], tied).known_pairs == 0

    @pytest.mark.parametrize("n", [0, 1, 2])
    def test_nothing_to_compare_is_nan(self, n):
        result = scores_of(n, [4] * n, relation(n), [-1] * n, truth([], 0))
        assert all(math.isnan(v) for v in (result.accuracy, result.coverage, result.score_accuracy))
        assert (result.pairs, result.known_pairs) == (0, 0)
        unmatched = scores_of(n, [4] * n, relation(n), [-1] * n, truth([(0, 1)], 2))
        assert math.isnan(unmatched.area_accuracy) and unmatched.coverage == 0

    @pytest.mark.parametrize("matches", [[0, 0], [0, 2], [0]])
    def test_impossible_matches(self, matches):
        with pytest.raises(ValueError, match=r"its own annotation \(0 \.\. 1\) or -1"):
            scores_of(2, [4, 4], relation(2), matches, truth([(0, 1)], 2))


@st.composite
def scenes(draw):
    n, k = draw(st.integers(0, 5)), draw(st.integers(0, 5))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))

    def integers(high, *shape):
        return torch.randint(high, shape, generator=generator)

    inter = integers(6, k, k).triu(1)
    own = integers(6, k, k).minimum(inter + inter.T)
    target = GroundTruthRelation(integers(20, k) + 6, integers(20, k), inter + inter.T, own)
    instances = detections(n, (integers(4, n) / 4.0).sort(descending=True).values.tolist())
    order = None if draw(st.booleans()) else torch.randperm(n, generator=generator)
    margin = torch.randn(n, n, generator=generator)
    found = Relation(margin, torch.rand(n, n, generator=generator) > 0.3, order)
    candidates = torch.cat([torch.arange(k), torch.full((n,), -1)])
    matches = candidates[torch.randperm(k + n, generator=generator)][:n]
    return instances, stats(integers(3, n).tolist()), found, matches, target


@settings(max_examples=200, deadline=None)
@given(scene=scenes())
def test_equals_pairwise_loop(scene):
    instances, stats_, found, matches, target = scene
    known = pairs = correct = by_score = by_area = 0
    owner = matches.tolist()
    order = list(range(len(instances))) if found.order is None else found.order.tolist()
    for a in range(len(target)):
        for b in range(a):
            inter = int(target.inter[a, b])
            lead = int(target.own[a, b] - target.own[b, a])
            if inter == 0 or lead == 0 or max(inter / int(target.area[a]), inter / int(target.area[b])) < 0.2:
                continue
            known += 1
            if a not in owner or b not in owner:
                continue
            pairs += 1
            front, back = owner.index(a if lead > 0 else b), owner.index(b if lead > 0 else a)
            later, earlier = sorted((front, back), key=order.index, reverse=True)
            reclaims = bool(found.valid[later, earlier]) and float(found.margin[later, earlier]) > 0
            correct += (later if reclaims else earlier) == front
            by_score += front < back
            area = stats_.area.tolist()
            by_area += (area[front], front) < (area[back], back)
    assert relation_counts(instances, stats_, found, matches, target, 0.2) == (
        known, pairs, correct, by_score, by_area
    )  # fmt: skip


def test_metric_adds_images_up_and_merges():
    images = [
        (detections(2), stats([8, 4]), relation(2, above), torch.tensor([0, 1]), truth([(1, 0)], 2))
        for above in ([(1, 0)], [], [(1, 0)])
    ]
    whole, part = RelationAccuracy(), RelationAccuracy()
    for image in images:
        whole.update(*image)
    part.update(*images[2])
    rest = RelationAccuracy()
    rest.update(*images[0])
    rest.update(*images[1])
    part.merge_state(rest)
    assert whole.compute() == part.compute() == (2 / 3, 1.0, 3, 3, 0.0, 1.0)


@settings(max_examples=50, deadline=None)
@given(scene=scenes())
def test_matches_may_come_late_and_only_when_an_order_is_known(scene):
    instances, stats_, found, matches, target = scene
    asked = []
    counts = relation_counts(instances, stats_, found, lambda: asked.append(1) or matches, target, 0.2)
    assert counts == relation_counts(instances, stats_, found, matches, target, 0.2)
    assert len(asked) == (counts.known > 0)
