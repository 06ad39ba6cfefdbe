"""Bins and reasons, against dense masks and loops over segments."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from helpers.breakdown_cases import CATEGORIES, POLICY, SMALL, boxes, fused, in_front, instances_of, random_case
from helpers.slow_breakdown import slow_bins, slow_reason
from panoptic_occ.common.errors import ConfigError
from panoptic_occ.common.tables import to_text
from panoptic_occ.fusion.policy import FusionPolicy
from panoptic_occ.metrics.breakdown import BINS, GROUPS, AnnotatedThings, Binning, Breakdown, breakdown_counts
from panoptic_occ.metrics.misses import ERRORS, KILLED
from panoptic_occ.metrics.pq.core import IOU_UNIT
from panoptic_occ.metrics.pq.metric import PanopticQuality
from panoptic_occ.metrics.tables import breakdown_tables
from panoptic_occ.structures.masks import MaskCrops, PairStats
from panoptic_occ.structures.panoptic_map import PanopticMap, Segment
from panoptic_occ.testing import toy_target


def breakdown_of(target, instances, prediction, binning=SMALL):
    metric = Breakdown(CATEGORIES, binning)
    annotated = AnnotatedThings.of(target, instances.masks, binning)
    metric.update(prediction, instances, PairStats.of(instances.masks), annotated)
    return metric.compute()


def filled(result, count):
    """Names of the bins in which ``count`` is not 0."""
    return [(entry.group, entry.name) for entry in result.bins if getattr(entry, count)]


def test_binning_by_hand():
    masks = boxes((0, 0, 5, 10), (0, 8, 5, 10), (0, 9, 5, 14), (7, 20, 8, 26), (0, 0, 0, 0))
    # areas 50, 10, 25, 6, 0; |01| = 10, |02| = 5, |12| = 5
    bins = Binning(sizes=(2.5, 5), sig_ratio=0.2)(PairStats.of(MaskCrops.from_dense(masks)))
    named = [[BINS[b] for b in row] for row in bins.tolist()]
    assert named[0] == [("overlap", "to .2"), ("size", "large"), ("neighbours", "2")]  # 10 / 50 is exactly .2
    assert named[1] == [("overlap", "above .5"), ("size", "medium"), ("neighbours", "2")]
    assert named[2] == [("overlap", "to .2"), ("size", "large"), ("neighbours", "2")]  # 25 is the square of 5
    assert named[3] == [("overlap", "0"), ("size", "small"), ("neighbours", "0")]
    assert named[4] == [("overlap", "0"), ("size", "small"), ("neighbours", "0")]
    assert Binning()(PairStats.of(MaskCrops.empty((4, 4)))).shape == (0, 3)


@pytest.mark.parametrize("sizes", [(32,), (96, 32), (0, 32), (8, 32, 96)])
def test_sizes_must_rise(sizes):
    with pytest.raises(ConfigError, match=r"data.object_sizes=.*two rising sides in pixels, as \[32, 96\]"):
        Binning(sizes)


def test_a_match_counts_where_the_annotation_is_and_a_false_positive_where_the_prediction_is():
    target = toy_target(boxes((0, 0, 8, 10), (0, 8, 8, 12)), torch.tensor([0, 1]))  # 16 of 80 and of 32 px shared
    ids = target.panoptic.ids.masked_fill(target.panoptic.ids == 0, 9)  # on void a false positive would be forgiven
    target = replace(target, panoptic=PanopticMap(ids, (*target.panoptic.segments, Segment(9, 3, False, 144))))
    found = instances_of(boxes((0, 8, 8, 12), (0, 20, 4, 24)), [1, 2])
    result = breakdown_of(target, found, fused(found))
    assert filled(result, "tp") == [("overlap", "to .5"), ("size", "small"), ("neighbours", "1")]
    assert filled(result, "fp") == [("overlap", "0"), ("size", "small"), ("neighbours", "0")]
    assert filled(result, "fn") == [("overlap", "to .2"), ("size", "medium"), ("neighbours", "1")]
    assert (result.fn, result.errors["missed"]) == (1, 1)
    small = next(entry for entry in result.bins if entry.name == "small")
    assert small.pq == pytest.approx(0.5)  # class 1: 1, class 2: only a false positive


class TestWhyThingsAreMissed:
    """One annotated thing without a match."""

    def reason(self, target, instances, relation=None, policy=POLICY):
        result = breakdown_of(target, instances, fused(instances, relation, policy))
        assert result.fn == sum(result.errors.values()) == 1
        assert sum(result.killed.values()) == result.errors["killed"]
        found = [name for part in (result.errors, result.killed, result.killers) for name in part if part[name]]
        return found[0] if len(found) == 1 else found

    def test_missed(self):
        target = toy_target(boxes((0, 0, 8, 10)), torch.tensor([0]))
        assert self.reason(target, instances_of(boxes(), [])) == "missed"
        elsewhere = instances_of(boxes((0, 6, 8, 16)), [0])  # 32 of 128 px
        assert self.reason(target, elsewhere) == "missed"

    def test_wrong_class(self):
        target = toy_target(boxes((0, 0, 8, 10)), torch.tensor([0]))
        assert self.reason(target, instances_of(boxes((0, 0, 8, 8)), [1])) == "wrong_class"

    def test_merged_with_a_neighbour_of_its_class(self):
        masks = boxes((0, 0, 8, 10), (0, 10, 8, 14))
        one_for_both = instances_of(boxes((0, 0, 8, 14)), [0])  # fits the first by 80 / 112, the second by 32 / 112
        assert self.reason(toy_target(masks, torch.tensor([0, 0])), one_for_both) == "merged"
        assert self.reason(toy_target(masks, torch.tensor([0, 1])), one_for_both) == "missed"

    def test_killed_by_a_check(self):
        target = toy_target(boxes((0, 0, 8, 10), (0, 3, 8, 13)), torch.tensor([0, 0]))
        # 56 px in common; annotation 0 keeps 24 px beside annotation 1
        found = instances_of(boxes((0, 3, 8, 13), (0, 0, 8, 10)), [0, 0])
        assert self.reason(target, found) == ["killed", "same_class", "same_class"]
        no_check = replace(POLICY, same_class_thr=None)
        assert self.reason(target, found, policy=no_check) == ["killed", "duplicate", "same_class"]
        other = toy_target(boxes((0, 0, 8, 10), (0, 3, 8, 13)), torch.tensor([1, 0]))
        plain = FusionPolicy(conf_thr=0, max_occluded=0.6, stuff_area=1)
        mixed = instances_of(boxes((0, 3, 8, 13), (0, 0, 8, 10)), [0, 1])
        assert self.reason(other, mixed, policy=plain) == ["killed", "occluded", "other_class"]

    def test_killed_by_losing_pixels(self):
        plain = FusionPolicy(conf_thr=0, stuff_area=1)
        target = toy_target(boxes((0, 0, 8, 10), (0, 4, 8, 10)), torch.tensor([0, 1])[[1, 0]])
        # annotation 1 lies in front and is found; annotation 0 is found too, but a detection of nothing covers it
        found = instances_of(boxes((0, 4, 8, 10), (0, 0, 8, 10), (0, 0, 8, 3)), [0, 1, 2])
        taken = in_front(3, (2, 1))
        assert self.reason(target, found, taken, plain) == ["killed", "shrunk", "other_class"]
        erased = instances_of(boxes((0, 4, 8, 10), (0, 0, 8, 10), (0, 0, 8, 4)), [0, 1, 2])
        assert self.reason(target, erased, taken, plain) == ["killed", "erased", "other_class"]

    def test_inexact(self):
        target = toy_target(boxes((0, 0, 8, 10), (0, 2, 8, 12)), torch.tensor([0, 1]))
        # 16 px of annotation 0 are visible; pasted whole it is 80 px, and nothing took any from it
        found = instances_of(boxes((0, 0, 8, 10), (0, 10, 8, 12)), [0, 2])
        result = breakdown_of(target, found, fused(found))
        assert result.errors == {"missed": 1, "merged": 0, "wrong_class": 0, "inexact": 1, "killed": 0}

    def test_of_several_detections_the_one_with_most_pixels_counts(self):
        target = toy_target(boxes((0, 0, 8, 10), (0, 2, 8, 12)), torch.tensor([0, 1]))
        found = instances_of(boxes((0, 0, 8, 10), (0, 0, 8, 9), (0, 10, 8, 12)), [0, 0, 2])
        plain = FusionPolicy(conf_thr=0, stuff_area=1)
        result = breakdown_of(target, found, fused(found, in_front(3, (1, 0)), plain))  # the second shrinks the first
        assert (result.errors["inexact"], result.errors["killed"]) == (1, 0)


def test_a_segment_without_an_instance_is_measured_by_what_is_visible():
    target = toy_target(boxes((0, 0, 8, 10), (0, 20, 8, 24)), torch.tensor([0, 1]))
    target = replace(
        target,
        masks=target.masks[[0]],
        labels=target.labels[:1],
        boxes=target.boxes[:1],
        relation=target.relation[torch.tensor([0])],
        instance_ids=target.instance_ids[:1],
    )
    found = instances_of(boxes((0, 0, 8, 10), (0, 20, 8, 24)), [0, 2])
    result = breakdown_of(target, found, fused(found))
    assert filled(result, "fn") == [("overlap", "0"), ("size", "small"), ("neighbours", "0")]
    assert result.errors["wrong_class"] == 1


def test_crowds_and_stuff_are_not_things_to_miss():
    target = toy_target(boxes((0, 0, 8, 10)), torch.tensor([0]))
    ids = target.panoptic.ids.clone()
    ids[:, 8:16], ids[:, 20:] = 7, 8  # the crowd begins in the thing's mask, but it is no neighbour
    more = (Segment(7, 1, True, 64, iscrowd=True), Segment(8, 3, False, 80))
    target = replace(target, panoptic=PanopticMap(ids, target.panoptic.segments + more))
    found = instances_of(boxes((0, 0, 8, 10), (0, 12, 8, 16)), [0, 1])
    result = breakdown_of(target, found, fused(found))
    assert result.fn == 0 and filled(result, "fp") == []  # a prediction on the crowd is no error
    assert filled(result, "tp") == [("overlap", "0"), ("size", "medium"), ("neighbours", "0")]


def test_equals_the_loop_over_random_scenes():
    seen = dict.fromkeys(ERRORS, 0)
    for seed in range(40):
        target, instances, prediction = random_case(seed)
        annotated = AnnotatedThings.of(target, instances.masks, SMALL)
        counts = breakdown_counts(prediction, instances, PairStats.of(instances.masks), annotated, CATEGORIES, SMALL)
        truth_bins = slow_bins(target.masks.dense())
        shown = [s for s in prediction.segments if s.isthing]
        predicted_bins = slow_bins(instances.masks.dense()[[s.instance for s in shown]])
        expected = {name: np.zeros((len(BINS), len(CATEGORIES))) for name in ("tp", "fp", "fn", "iou")}
        errors = np.zeros((len(BINS), len(ERRORS)))
        void, hit = target.panoptic.ids == 0, set()

        def rows(names):
            return [BINS.index(pair) for pair in zip(GROUPS, names, strict=True)]

        for g in target.panoptic.segments:
            truth, k = target.panoptic.ids == g.id, g.id - 1  # toy annotations are numbered from 1
            iou = {}
            for s in shown:
                mask = prediction.ids == s.id
                union = int((mask | truth).sum()) - int((mask & void).sum())
                iou[s.id] = int((mask & truth).sum()) / union if s.label == g.label else 0
            best = max(iou, key=iou.__getitem__, default=None)
            if best is not None and iou[best] > 0.5:
                expected["tp"][rows(truth_bins[k]), g.label] += 1
                expected["iou"][rows(truth_bins[k]), g.label] += iou[best]
                hit.add(best)
            else:
                reason = slow_reason(target, instances, prediction, k, g)
                expected["fn"][rows(truth_bins[k]), g.label] += 1
                errors[rows(truth_bins[k]), ERRORS.index(reason)] += 1
                seen[reason] += 1
        for s, names in zip(shown, predicted_bins, strict=True):
            mask = prediction.ids == s.id
            if s.id not in hit and not int((mask & void).sum()) / int(mask.sum()) > 0.5:
                expected["fp"][rows(names), s.label] += 1
        for name in ("tp", "fp", "fn"):
            assert np.array_equal(getattr(counts, name), expected[name]), (seed, name)
        assert np.allclose(counts.iou / IOU_UNIT, expected["iou"], atol=1e-9)
        assert np.array_equal(counts.errors, errors), seed
    assert all(seen.values()), seen


def test_every_group_adds_up_to_the_whole():
    quality, metric = PanopticQuality(CATEGORIES), Breakdown(CATEGORIES, SMALL)
    for seed in range(12):
        target, instances, prediction = random_case(seed)
        quality.update(prediction, target.panoptic)
        annotated = AnnotatedThings.of(target, instances.masks, SMALL)
        metric.update(prediction, instances, PairStats.of(instances.masks), annotated)
    things = CATEGORIES.num_things
    for first, size in zip((0, 4, 7), map(len, GROUPS.values()), strict=True):
        group = slice(first, first + size)
        for name in ("tp", "fp", "fn", "iou"):
            assert torch.equal(getattr(metric, name)[group].sum(dim=0)[:things], getattr(quality, name)[:things])
    result = metric.compute()
    assert sum(result.errors.values()) == result.fn == int(quality.fn[:things].sum()) > 0
    assert sum(result.killed.values()) == result.errors["killed"] > 0
    assert sum(result.killers.values()) <= result.errors["killed"]
    assert tuple(result.killed) == KILLED


def test_the_split_over_processes_does_not_matter():
    whole, parts = Breakdown(CATEGORIES, SMALL), [Breakdown(CATEGORIES, SMALL) for _ in range(3)]
    for seed in range(9):
        target, instances, prediction = random_case(seed)
        annotated = AnnotatedThings.of(target, instances.masks, SMALL)
        for metric in (whole, parts[seed % 3]):
            metric.update(prediction, instances, PairStats.of(instances.masks), annotated)
    parts[2].merge_state(parts[0])
    parts[2].merge_state(parts[1])
    assert whole.compute() == parts[2].compute()


def test_detections_below_the_threshold_took_no_part():
    target = toy_target(boxes((0, 0, 8, 10)), torch.tensor([0]))
    found = instances_of(boxes((0, 0, 8, 10)), [0], scores=[0.3])
    assert breakdown_of(target, found, fused(found, policy=FusionPolicy(conf_thr=0.5))).errors["missed"] == 1


def test_tables_show_every_bin_and_reason():
    target, instances, prediction = random_case(1)
    result = breakdown_of(target, instances, prediction)
    *texts, last = [to_text(table) for table in breakdown_tables({"score | plain": result, "area | plain": result})]

    def cells(text):
        return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if "|" in line]

    for text, (group, names) in zip(texts, GROUPS.items(), strict=True):
        assert group in text.splitlines()[0]
        rows = cells(text)
        assert rows[0] == ["", "", *names]
        bins = [entry for entry in result.bins if entry.group == group]
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
