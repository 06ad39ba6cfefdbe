"""Bins and reasons, against dense masks and loops over segments."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from helpers.breakdown import CATEGORIES, POLICY, SMALL, fused, random_case, slow_bins, slow_reason
from helpers.orders import detections, relation
from panoptic_occ.common.errors import ConfigError
from panoptic_occ.fusion.policy import FusionPolicy
from panoptic_occ.metrics.breakdown import (
    BINS,
    ERRORS,
    GROUPS,
    KILLED,
    AnnotatedThings,
    Binning,
    Breakdown,
    breakdown_tables,
)
from panoptic_occ.metrics.pq.metric import PanopticQuality, panoptic_matches
from panoptic_occ.structures.masks import MaskCrops, PairStats
from panoptic_occ.structures.panoptic_map import PanopticMap, Segment
from panoptic_occ.testing import toy_target

PLAIN = FusionPolicy(conf_thr=0, stuff_area=1)


def boxes(*edges):
    """Dense masks of 8 x 30 px from (left, right) or (left, right, top, bottom)."""
    masks = torch.zeros(len(edges), 8, 30, dtype=torch.bool)
    for mask, (left, right, *rows) in zip(masks, edges, strict=True):
        mask[slice(*rows) if rows else slice(None), left:right] = True
    return masks


def things(labels, *edges):
    return toy_target(boxes(*edges), torch.tensor(labels))


def seen(labels, *edges, scores=None):
    return detections(len(edges), scores, boxes(*edges), labels)


def counted(metric, target, instances, prediction):
    annotated = AnnotatedThings.of(target, instances.masks, SMALL)
    metric.update(prediction, instances, PairStats.of(instances.masks), annotated)
    return metric


def breakdown_of(target, instances, said=None, policy=POLICY):
    return counted(Breakdown(CATEGORIES, SMALL), target, instances, fused(instances, said, policy)).compute()


def filled(result, count):
    """Names of the bins of overlap, size and neighbours in which ``count`` is not 0."""
    bins = [(group, name) for group in GROUPS for name, b in result.groups[group].items() if getattr(b, count)]
    assert [group for group, _ in bins] in ([], list(GROUPS))
    return [name for _, name in bins]


def test_binning_by_hand():
    masks = boxes((0, 10, 0, 5), (8, 10, 0, 5), (9, 14, 0, 5), (20, 26, 7, 8), (0, 0))
    # areas 50, 10, 25, 6, 0; |01| = 10, |02| = 5, |12| = 5
    bins = Binning(sizes=(2.5, 5), sig_ratio=0.2)(PairStats.of(MaskCrops.from_dense(masks)))
    assert [[BINS[b][1] for b in row] for row in bins.tolist()] == [
        ["to .2", "large", "2"],  # 10 / 50 is exactly .2
        ["above .5", "medium", "2"],
        ["to .2", "large", "2"],  # 25 is the square of 5
        ["0", "small", "0"],
        ["0", "small", "0"],
    ]
    assert Binning()(PairStats.of(MaskCrops.empty((4, 4)))).shape == (0, 3)


@pytest.mark.parametrize("sizes", [(32,), (96, 32), (0, 32), (8, 32, 96)])
def test_sizes_must_rise(sizes):
    with pytest.raises(ConfigError, match=r"data.object_sizes=.*two rising sides in pixels, as \[32, 96\]"):
        Binning(sizes)


def test_a_match_counts_where_the_annotation_is_and_a_false_positive_where_the_prediction_is():
    target = things([0, 1], (0, 10), (8, 12))  # 16 of 80 and of 32 px shared
    ids = target.panoptic.ids.masked_fill(target.panoptic.ids == 0, 9)  # on void a false positive would be forgiven
    target = replace(target, panoptic=PanopticMap(ids, (*target.panoptic.segments, Segment(9, 3, False, 144))))
    result = breakdown_of(target, seen([1, 2], (8, 12), (20, 24, 0, 4)))
    assert filled(result, "tp") == ["to .5", "small", "1"]
    assert filled(result, "fp") == ["0", "small", "0"]
    assert filled(result, "fn") == ["to .2", "medium", "1"]
    assert (result.fn, result.errors["missed"]) == (1, 1)
    small = result.groups["size"]["small"]
    assert small.pq == pytest.approx(0.5)  # class 1: 1, class 2: only a false positive


ONE, BOTH, FRONT = ([0], (0, 10)), ([0, 0], (0, 10), (3, 13)), ([1, 0], (0, 10), (4, 10))
REASONS = [  # annotations, detections, their relation, policy, the one reason and, for a killed one, the way and killer
    (ONE, ([],), (), POLICY, ["missed"]),
    (ONE, ([0], (6, 16)), (), POLICY, ["missed"]),  # 32 of 128 px
    (ONE, ([1], (0, 8)), (), POLICY, ["wrong_class"]),
    # one for both fits the first by 80 / 112, the second by 32 / 112
    (([0, 0], (0, 10), (10, 14)), ([0], (0, 14)), (), POLICY, ["merged"]),
    (([0, 1], (0, 10), (10, 14)), ([0], (0, 14)), (), POLICY, ["missed"]),
    # 56 px in common; annotation 0 keeps 24 px beside annotation 1
    (BOTH, ([0, 0], (3, 13), (0, 10)), (), POLICY, ["killed", "same_class", "same_class"]),
    (BOTH, ([0, 0], (3, 13), (0, 10)), (), replace(POLICY, same_class_thr=None), ["killed", "duplicate", "same_class"]),
    (([1, 0], *BOTH[1:]), ([0, 1], (3, 13), (0, 10)), (), replace(PLAIN, max_occluded=0.6),
     ["killed", "occluded", "other_class"]),
    # annotation 1 lies in front and is found; annotation 0 is found too, but a detection of nothing covers it
    (FRONT, ([0, 1, 2], (4, 10), (0, 10), (0, 3)), [(2, 1)], PLAIN, ["killed", "shrunk", "other_class"]),
    (FRONT, ([0, 1, 2], (4, 10), (0, 10), (0, 4)), [(2, 1)], PLAIN, ["killed", "erased", "other_class"]),
    # below the threshold of scores it took no part
    (ONE, ([0], (0, 10)), (), FusionPolicy(conf_thr=0.95), ["missed"]),
]  # fmt: skip


@pytest.mark.parametrize(("target", "predicted", "front", "policy", "reasons"), REASONS)
def test_why_a_thing_is_missed(target, predicted, front, policy, reasons):
    instances = seen(*predicted)
    result = breakdown_of(things(*target), instances, relation(len(instances), front), policy)
    assert result.fn == sum(result.errors.values()) == 1
    assert [name for part in (result.errors, result.killed, result.killers) for name in part if part[name]] == reasons


def test_of_several_detections_the_one_with_most_pixels_counts():
    """16 px of annotation 0 are visible; pasted whole it is 80 px, and nothing took any from it."""
    target = things([0, 1], (0, 10), (2, 12))
    result = breakdown_of(target, seen([0, 2], (0, 10), (10, 12)))
    assert result.errors == {"missed": 1, "merged": 0, "wrong_class": 0, "inexact": 1, "killed": 0}
    shrunk = breakdown_of(target, seen([0, 0, 2], (0, 10), (0, 9), (10, 12)), relation(3, [(1, 0)]), PLAIN)
    assert (shrunk.errors["inexact"], shrunk.errors["killed"]) == (1, 0)


def test_a_segment_without_an_instance_is_measured_by_what_is_visible():
    target = things([0, 1], (0, 10), (20, 24))
    first = torch.tensor([0])
    parts = {name: getattr(target, name)[first] for name in ("masks", "labels", "boxes", "relation", "instance_ids")}
    result = breakdown_of(replace(target, **parts), seen([0, 2], (0, 10), (20, 24)))
    assert filled(result, "fn") == ["0", "small", "0"]
    assert result.errors["wrong_class"] == 1


def test_crowds_and_stuff_are_not_things_to_miss():
    target = things([0], (0, 10))
    ids = target.panoptic.ids.clone()
    ids[:, 8:16], ids[:, 20:] = 7, 8  # the crowd begins in the thing's mask, but it is no neighbour
    more = (Segment(7, 1, True, 64, iscrowd=True), Segment(8, 3, False, 80))
    target = replace(target, panoptic=PanopticMap(ids, target.panoptic.segments + more))
    result = breakdown_of(target, seen([0, 1], (0, 10), (12, 16)))
    assert result.fn == 0 and filled(result, "fp") == []  # a prediction on the crowd is no error
    assert filled(result, "tp") == ["0", "medium", "0"]


def test_equals_the_loop_over_random_scenes():
    """Who matches is that of PQ; the bins and reasons come from dense masks."""
    occurred = dict.fromkeys(ERRORS, 0)
    for seed in range(40):
        target, instances, prediction = random_case(seed)
        metric = counted(Breakdown(CATEGORIES, SMALL), target, instances, prediction)
        matches = panoptic_matches(prediction, target.panoptic, len(CATEGORIES))
        annotated, truth_bins = target.panoptic.segments, slow_bins(target.masks.dense())
        shown = prediction.segments
        predicted_bins = slow_bins(instances.masks.dense()[[s.instance for s in shown]])
        expected = {name: np.zeros((len(BINS), len(CATEGORIES))) for name in ("tp", "fp", "fn", "iou")}
        expected["errors"] = np.zeros((len(BINS), len(ERRORS)))

        def add(name, bins, column, value=1, table=expected):
            table[name][[BINS.index(pair) for pair in zip(GROUPS, bins, strict=True)], column] += value

        for (g, _), iou in zip(matches.pairs.tolist(), matches.iou.tolist(), strict=True):
            for name, value in (("tp", 1), ("iou", iou)):
                add(name, truth_bins[annotated[g].id - 1], annotated[g].label, value)  # they are numbered from 1
        for g in matches.missed.nonzero()[0].tolist():
            reason = slow_reason(target, instances, prediction, annotated[g].id - 1, annotated[g])
            add("fn", truth_bins[annotated[g].id - 1], annotated[g].label)
            add("errors", truth_bins[annotated[g].id - 1], ERRORS.index(reason))
            occurred[reason] += 1
        for p in matches.false.nonzero()[0].tolist():
            add("fp", predicted_bins[p], shown[p].label)
        for name, table in expected.items():
            assert np.array_equal(getattr(metric, name), table), (seed, name)
    assert all(occurred.values()), occurred


def test_every_group_adds_up_to_the_whole():
    quality, metric, things = PanopticQuality(CATEGORIES), Breakdown(CATEGORIES, SMALL), CATEGORIES.num_things
    for seed in range(12):
        target, instances, prediction = random_case(seed)
        quality.update(prediction, target.panoptic)
        counted(metric, target, instances, prediction)
    for first, size in zip((0, 4, 7), map(len, GROUPS.values()), strict=True):
        for name in ("tp", "fp", "fn", "iou"):
            of_group = getattr(metric, name)[first : first + size].sum(dim=0)
            assert torch.equal(of_group[:things], getattr(quality, name)[:things])
    result = metric.compute()
    assert sum(result.errors.values()) == result.fn == int(quality.fn[:things].sum()) > 0
    assert sum(result.killed.values()) == result.errors["killed"] > 0
    assert sum(result.killers.values()) <= result.errors["killed"]
    assert tuple(result.killed) == KILLED


def test_tables_show_every_bin_and_reason():
    result = counted(Breakdown(CATEGORIES, SMALL), *random_case(1)).compute()
    *texts, last = breakdown_tables({"score | plain": result, "area | plain": result})

    def cells(text):
        return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if "|" in line]

    for text, (group, names) in zip(texts, GROUPS.items(), strict=True):
        assert group in text.splitlines()[0]
        rows = cells(text)
        assert rows[0] == ["", "", *names]
        bins = result.groups[group].values()
        assert rows[2] == ["", "annotated", *(str(entry.tp + entry.fn) for entry in bins)]
        assert rows[3][:2] == ["plain", "score"] and rows[4][:2] == ["", "area"]
        empty = [entry.tp + entry.fp + entry.fn == 0 for entry in bins]
        assert [cell == "-" for cell in rows[3][2:]] == empty
    reasons = dict(zip(cells(last)[0], cells(last)[2], strict=True))
    assert (reasons["FN"], reasons["missed"]) == (str(result.fn), str(result.errors["missed"]))
    assert reasons["killed: shrunk"] == str(result.killed["shrunk"])
    flat = result.as_dict()
    assert set(flat) == {*GROUPS, "fn", "errors", "killed", "killers"}
    assert not math.isnan(flat["overlap"]["0"]["pq"])
