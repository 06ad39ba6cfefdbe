"""Hand-checked cases of the fusion: 4x4 images whose areas can be counted on paper."""

import logging
from dataclasses import replace

import pytest
import torch

from helpers.small_images import ABC, areas, detections, fused, rectangle, run, statuses
from panoptic_occ.fusion.engine import fuse
from panoptic_occ.fusion.policy import FusionPolicy
from panoptic_occ.structures.instances import InstanceSet
from panoptic_occ.structures.masks import MaskCrops, PairStats
from panoptic_occ.structures.relation import Relation

A, B, C = 0, 1, 2  # of ABC
HEURISTIC = FusionPolicy(max_occluded=0.5, stuff_area=0)
OCFUSION = FusionPolicy(min_visible=0.5, stuff_area=0)
FULL = torch.ones((4, 4), dtype=torch.bool)


class TestHeuristic:
    def test_h1_more_than_half_hidden_is_rejected(self):
        panoptic = run(ABC, HEURISTIC)
        assert areas(panoptic) == [12, 0, 0]
        assert statuses(panoptic) == ["kept", "occluded", "occluded"]
        assert [record.blocker for record in panoptic.records] == [None, A, A]

    @pytest.mark.parametrize(("max_occluded", "expected"), [(0.7, [12, 2, 0]), (0.75, [12, 2, 1])])
    def test_h2_the_limit_itself_is_kept(self, max_occluded, expected):
        assert areas(run(ABC, FusionPolicy(max_occluded=max_occluded))) == expected

    @pytest.mark.parametrize(("stuff_area", "filled"), [(5, 0), (4, 4)])
    def test_h3_stuff_of_exactly_the_limit_is_filled(self, stuff_area, filled):
        panoptic = run(ABC, replace(HEURISTIC, stuff_area=stuff_area), semantic=torch.full((4, 4), 7))
        assert int((panoptic.ids == 2).sum()) == filled
        assert [s.label for s in panoptic.segments if not s.isthing] == ([7] if filled else [])

    def test_of_equal_scores_the_first_wins_and_a_hidden_instance_is_never_kept(self):
        assert areas(run(ABC[:2], HEURISTIC, scores=[0.8, 0.8])) == [12, 0]
        assert statuses(run([ABC[0], ABC[0]], FusionPolicy(max_occluded=1.0))) == ["kept", "occluded"]


class TestOCFusion:
    @pytest.mark.parametrize(
        ("above", "expected"),
        [("all", [5, 6, 4]), ((), [12, 0, 0]), ([(B, A)], [8, 6, 0]), ([(C, A)], [9, 0, 4])],
    )
    def test_o1_only_what_the_later_instance_says_counts(self, above, expected):
        assert areas(run(ABC, OCFUSION, above)) == expected

    def test_o2_significance_of_either_mask_or_of_the_later_one(self):
        masks = [rectangle((0, 1), (0, 2)), FULL]
        either = run(masks, OCFUSION, "all")
        assert areas(either) == [0, 16]
        assert statuses(either) == ["erased", "kept"]
        assert either.records[0].blocker == 1
        assert [segment.instance for segment in either.segments] == [1]
        assert areas(run(masks, OCFUSION, "all", mode="directional")) == [2, 14]

    @pytest.mark.parametrize(
        ("key", "kept"), [("min_visible", (True, False, False)), ("max_occluded", (False, True, True))]
    )
    def test_o3_the_two_readings_of_tau_differ_at_equality(self, key, kept):
        masks = [rectangle((0, 1), (0, 4)), rectangle((0, 2), (0, 4))]
        for tau, stays in zip((0.4, 0.5, 0.6), kept, strict=True):
            assert areas(run(masks, FusionPolicy(**{key: tau}))) == [4, 4 if stays else 0]

    def test_o5_a_cycle_is_decided_by_the_order_of_scores(self):
        c = rectangle((1, 3), (1, 3))
        c[0, 2] = True
        masks = [rectangle((0, 3), (0, 3)), rectangle((1, 4), (1, 4)), c]
        panoptic = run(masks, FusionPolicy(min_visible=0.3), [(A, B), (B, C), (C, A)])
        assert areas(panoptic) == [4, 5, 5]
        assert panoptic.segments[int(panoptic.ids[1, 1]) - 1].instance == C

    def test_o6_a_rejected_instance_gives_back_what_it_reclaimed(self):
        strip = [rectangle((0, 1), columns, (1, 4)) for columns in ((0, 1), (1, 4), (0, 4))]
        panoptic = run(strip, OCFUSION, [(C, A)])
        assert areas(panoptic) == [1, 3, 0]
        assert (panoptic.records[C].reclaimed, panoptic.records[C].blocker) == (0, B)

    def test_records_count_free_and_reclaimed_pixels(self):
        records = run(ABC, OCFUSION, "all").records
        assert [(r.area, r.free, r.reclaimed, r.final) for r in records] == [(12, 12, 0, 5), (6, 2, 4, 6), (4, 1, 3, 4)]


class TestPostMinVisible:
    def test_an_instance_that_others_covered_too_far_is_removed(self):
        """A keeps 5 of 12 pixels: .41667 of its mask."""
        semantic = torch.full((4, 4), 7)
        for threshold, expected in ((None, [5, 6, 4]), (0.41, [5, 6, 4]), (0.42, [0, 6, 4])):
            panoptic = run(ABC, replace(OCFUSION, post_min_visible=threshold), "all", semantic=semantic)
            assert areas(panoptic) == expected
        assert statuses(panoptic) == ["erased", "kept", "kept"]
        assert panoptic.records[A].blocker == B
        assert [segment.instance for segment in panoptic.segments] == [B, C, None]
        assert panoptic.segments[2].area == 6  # its pixels are free for stuff again

    def test_exactly_the_share_is_removed(self):
        masks = [rectangle((0, 1), (0, 5), (1, 5)), rectangle((0, 1), (0, 2), (1, 5))]
        for threshold, expected in ((0.59, [3, 2]), (0.6, [0, 2])):
            policy = FusionPolicy(min_visible=0.5, post_min_visible=threshold)
            assert areas(run(masks, policy, [(1, 0)])) == expected

    def test_without_anybody_who_took_its_pixels_there_is_no_blocker(self):
        panoptic = run(ABC[:2], FusionPolicy(max_occluded=0.9, post_min_visible=0.4))  # B gets 2 of its 6 pixels
        assert areas(panoptic) == [12, 0]
        assert statuses(panoptic) == ["kept", "erased"] and panoptic.records[B].blocker is None


class TestEdgeCases:
    def test_no_instance(self):
        empty = torch.zeros((0, 4, 4), dtype=torch.bool)
        panoptic = run(empty, HEURISTIC, semantic=torch.full((4, 4), -1))
        assert panoptic.segments == () and panoptic.records == ()
        assert not panoptic.ids.any() and panoptic.ids.shape == (4, 4)
        filled = run(empty, HEURISTIC, semantic=torch.full((4, 4), 5))
        assert [(s.id, s.label, s.area, s.isthing) for s in filled.segments] == [(1, 5, 16, False)]

    def test_one_instance_and_no_stuff(self):
        panoptic = run(ABC[:1], OCFUSION, semantic=torch.full((4, 4), -1))
        assert areas(panoptic) == [12] and int((panoptic.ids == 0).sum()) == 4
        (segment,) = panoptic.segments
        assert (segment.id, segment.label, segment.isthing, segment.instance) == (1, 0, True, 0)
        assert segment.score == pytest.approx(0.9)

    def test_empty_masks_are_skipped(self):
        nothing = torch.zeros((4, 4), dtype=torch.bool)
        assert statuses(run([nothing, nothing], OCFUSION, "all")) == ["empty", "empty"]
        assert areas(run([nothing, ABC[0]], OCFUSION, "all")) == [0, 12]

    @pytest.mark.parametrize("threshold", [0.5, 0.6, 0.7])  # 0.6 and 0.7 are no float32 numbers
    def test_score_of_exactly_the_threshold_takes_part(self, threshold):
        panoptic = run(ABC[:2], FusionPolicy(conf_thr=threshold), scores=[threshold, threshold - 0.01])
        assert statuses(panoptic) == ["kept", "low_score"] and areas(panoptic) == [12, 0]

    def test_reclaiming_from_an_erased_instance_changes_nothing(self):
        masks = [rectangle((0, 1), (0, 2)), rectangle((0, 1), (0, 4)), FULL]
        panoptic = run(masks, FusionPolicy(min_visible=0.3), [(1, 0), (2, 0)])
        assert areas(panoptic) == [0, 4, 12] and panoptic.records[0].blocker == 1

    def test_nan_margin_is_not_above_and_is_logged_once(self, caplog):
        instances = detections(ABC)
        relation = Relation(torch.full((3, 3), torch.nan), PairStats.of(instances.masks).significant(0.2))
        with caplog.at_level(logging.WARNING, logger="panoptic_occ"):
            assert areas(fused(instances, relation, HEURISTIC)) == [12, 0, 0]
        assert len(caplog.records) == 1 and "NaN" in caplog.text

    def test_relation_may_set_the_order(self):
        panoptic = run(ABC[:2], HEURISTIC, order=[1, 0])
        assert areas(panoptic) == [8, 6]
        assert [segment.instance for segment in panoptic.segments] == [1, 0]

    def test_mask_cropped_away_at_the_border(self):
        masks = MaskCrops.from_crops([torch.ones(0, 2), torch.ones(2, 2)], [(4, 0), (2, 2)], (4, 4))
        instances = InstanceSet(masks, torch.zeros(2, 4), torch.tensor([0.9, 0.8]), torch.tensor([0, 0]))
        relation = Relation(torch.zeros(2, 2), torch.zeros(2, 2, dtype=torch.bool))
        assert statuses(fused(instances, relation, HEURISTIC)) == ["empty", "kept"]

    @pytest.mark.parametrize(("visible", "area"), [(3, 5), (7, 10), (11, 20), (29, 50), (55, 100), (57, 100)])
    def test_quotients_meet_their_decimal_threshold(self, visible, area):
        """0.55 * 100 and 0.58 * 50 miss 55 and 29 in floating point; the quotients do not."""
        hidden = area - visible
        strip = [rectangle((0, 1), (0, hidden), (1, area)), rectangle((0, 1), (0, area), (1, area))]
        share, rest = round(visible / area, 2), round(hidden / area, 2)
        assert areas(run(strip, FusionPolicy(min_visible=share))) == [hidden, 0]
        assert areas(run(strip, FusionPolicy(max_occluded=rest))) == [hidden, visible]
        assert areas(run(strip, FusionPolicy(same_class_thr=rest), labels=[1, 1])) == [hidden, 0]


def test_sizes_that_contradict_each_other():
    instances = detections(ABC)
    stats = PairStats.of(instances.masks)
    good = Relation(torch.zeros(3, 3), torch.zeros(3, 3, dtype=torch.bool))
    for changed, message in (
        ({"relation": Relation(torch.zeros(2, 2), good.valid)}, r"margin has shape \(2, 2\)"),
        ({"stats": PairStats.of(instances.masks[[0]])}, r"stats.inter has shape \(1, 1\)"),
        ({"semantic": torch.zeros(5, 4, dtype=torch.int64)}, r"semantic map is \(5, 4\)"),
        ({"relation": replace(good, order=torch.tensor([0, 0, 1]))}, "order must name each"),
    ):
        arguments = {"stats": stats, "relation": good, "semantic": None, "policy": HEURISTIC}
        with pytest.raises(ValueError, match=message):
            fuse(instances, **arguments | changed)
