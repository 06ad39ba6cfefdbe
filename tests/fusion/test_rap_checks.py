"""RAP's order by value and its two checks (same class, duplicates), by hand."""

from dataclasses import replace

import pytest

from helpers.small_images import ABC, areas, rectangle, run, statuses
from panoptic_occ.fusion.policy import FusionPolicy

FULL, CENTRE = rectangle((0, 4), (0, 4)), rectangle((1, 3), (1, 3))
HALVES = [rectangle((0, 2), (0, 4)), rectangle((0, 1), (0, 4)), rectangle((1, 2), (0, 4))]  # of the first


class TestRapChecks:
    def test_p2_order_by_value(self):
        masks = [FULL, CENTRE, rectangle((1, 2), (1, 4))]
        policy = FusionPolicy(min_visible=0.3, duplicate_thr=0.6)
        for value, expected in (((1, 0, -1), [11, 2, 3]), ((0, -1, -0.5), [11, 4, 1]), ((1, -1, 0), [11, 4, 1])):
            assert areas(run(masks, policy, value=value)) == expected

    def test_p3_equal_values_leave_the_pixels_to_the_earlier(self):
        policy = FusionPolicy(min_visible=0.3, duplicate_thr=0.6)
        tie = run([FULL, CENTRE], policy, value=(0, 0))
        assert areas(tie) == [16, 0] and statuses(tie) == ["kept", "occluded"]
        assert areas(run([FULL, CENTRE], policy, value=(0, -1))) == [12, 4]

    @pytest.mark.parametrize(("labels", "expected"), [([1, 1], [16, 0]), ([1, 2], [12, 4])])
    def test_p4_same_class_check(self, labels, expected):
        policy = FusionPolicy(min_visible=0.6, same_class_thr=0.6, duplicate_thr=0.5)
        panoptic = run([FULL, CENTRE], policy, value=(0, -1), labels=labels)
        assert areas(panoptic) == expected
        if labels == [1, 1]:
            assert (panoptic.records[1].status, panoptic.records[1].blocker) == ("same_class", 0)

    def test_p4_same_class_check_rejects_at_equality(self):
        masks = [rectangle((0, 1), (0, 3), (1, 5)), rectangle((0, 1), (0, 5), (1, 5))]
        rejects = FusionPolicy(min_visible=0.3, same_class_thr=0.6)
        strict, larger = replace(rejects, same_class_strict=True), replace(rejects, same_class_thr=0.61)  # RAP's code
        for policy, expected in ((rejects, [3, 0]), (strict, [0, 5]), (larger, [0, 5])):
            assert areas(run(masks, policy, value=(0, -1), labels=[1, 1])) == expected

    def test_p5_duplicate_check(self):
        masks = [rectangle((0, 2), (0, 4)), rectangle((0, 2), (0, 3))]
        panoptic = run(masks, FusionPolicy(min_visible=0.6, duplicate_thr=0.5), value=(0, -1))
        assert areas(panoptic) == [8, 0]
        assert (panoptic.records[1].status, panoptic.records[1].blocker) == ("duplicate", 0)
        assert areas(run(masks, FusionPolicy(min_visible=0.6), value=(0, -1))) == [2, 6]

    def test_p5_duplicate_check_rejects_at_equality(self):
        masks = [rectangle((1, 3), (1, 3)), rectangle((1, 2), (1, 3))]  # shares 1.0 and 0.5
        assert areas(run(masks, FusionPolicy(duplicate_thr=0.5), value=(0, -1))) == [4, 0]
        assert areas(run(masks, FusionPolicy(duplicate_thr=0.51), value=(0, -1))) == [2, 2]

    def test_p6_duplicates_are_found_on_full_masks(self):
        policy = FusionPolicy(min_visible=0.6, duplicate_thr=0.6)
        assert areas(run(HALVES, policy, value=(0, -1, -2))) == [0, 4, 4]

    def test_p6_on_the_canvas_a_covered_instance_has_only_the_pixels_it_still_owns(self):
        policy = FusionPolicy(min_visible=0.6, duplicate_thr=0.6, duplicate_areas="canvas")
        panoptic = run(HALVES, policy, value=(0, -1, -2))
        assert areas(panoptic) == [4, 4, 0]
        assert statuses(panoptic) == ["kept", "kept", "duplicate"] and panoptic.records[2].blocker == 0

    def test_canvas_areas_ignore_what_is_disjoint_by_now(self):
        """The third mask repeats the first, whose pixels the second has taken: only full masks call it a duplicate."""
        masks = [HALVES[0], rectangle((0, 3), (0, 4)), HALVES[0]]
        original = FusionPolicy(min_visible=0.0, duplicate_thr=0.7)
        canvas = replace(original, duplicate_areas="canvas")
        assert statuses(run(masks, original, value=(0, -1, -2))) == ["erased", "kept", "duplicate"]
        assert statuses(run(masks, canvas, value=(0, -1, -2))) == ["erased", "kept", "kept"]

    def test_p7_an_instance_without_pixels_is_removed(self):
        masks = [FULL, HALVES[0], rectangle((2, 4), (0, 4))]
        policy = FusionPolicy(min_visible=0.6, duplicate_thr=0.6)
        panoptic = run(masks, policy, value=(0, -1, -1))
        assert areas(panoptic) == [0, 8, 8]
        assert [(segment.id, segment.instance) for segment in panoptic.segments] == [(1, 1), (2, 2)]
        assert sorted(panoptic.ids.unique().tolist()) == [1, 2]

    @pytest.mark.parametrize(("order", "expected"), [([0, 1, 2], [8, 0, 4]), ([2, 1, 0], [4, 0, 8])])
    def test_of_two_duplicates_the_better_score_stands_in_any_order(self, order, expected):
        """The second mask repeats the first; the third hides half of the first, or the other way round."""
        masks = [HALVES[0], HALVES[0], rectangle((1, 3), (0, 4))]
        panoptic = run(masks, FusionPolicy(duplicate_thr=0.6), order=order)
        assert areas(panoptic) == expected
        assert statuses(panoptic) == ["kept", "duplicate", "kept"] and panoptic.records[1].blocker == 0

    def test_a_duplicate_below_the_lowest_score_beats_nobody(self):
        masks, policy = [ABC[0], ABC[0]], FusionPolicy(duplicate_thr=0.6, conf_thr=0.5)
        assert statuses(run(masks, policy, order=[0, 1], scores=[0.4, 0.8])) == ["low_score", "kept"]

    def test_on_the_canvas_the_order_decides_which_one_is_the_duplicate(self):
        policy = FusionPolicy(duplicate_thr=0.6, duplicate_areas="canvas")
        assert statuses(run([ABC[0], ABC[0]], policy, order=[1, 0])) == ["duplicate", "kept"]
