"""The annotated order: whom it matches, and which orders it knows."""

from dataclasses import replace

import pytest
import torch

from helpers.small_images import ask, detections, fused, rectangle, strip
from helpers.toy_orders import COMMON, O7
from panoptic_occ.common.errors import ConfigError
from panoptic_occ.fusion.policy import FusionPolicy
from panoptic_occ.occlusion.baselines.ground_truth import GroundTruthOrder
from panoptic_occ.testing import toy_detections, toy_sample, toy_target

LABELS = torch.tensor([0, 1])
MASKS = strip(8, range(4), range(2, 6))


def relation_of(instances, target, **options):
    return ask(GroundTruthOrder(**options, **COMMON), instances, target=target)


def test_perfect_detections_in_any_score_order_give_the_annotated_map():
    for seed in range(10):
        target = toy_sample(6, seed).target
        instances = toy_detections(target, seed)
        panoptic = fused(instances, relation_of(instances, target, sig_ratio=0.0), FusionPolicy())
        shuffle = torch.randperm(6, generator=torch.Generator().manual_seed(seed + 1))  # as in toy_detections
        expected = torch.zeros_like(panoptic.ids)
        for segment in panoptic.segments:
            expected[target.panoptic.ids == shuffle[segment.instance] + 1] = segment.id
        assert torch.equal(panoptic.ids, expected)


def test_unmatched_detections_keep_the_order_of_the_scores():
    target = toy_target(MASKS, LABELS)
    # the third has IoU 3/6 with the second, which is taken
    instances = detections(strip(8, range(4), range(2, 6), range(3, 8)))
    relation = relation_of(instances, target)
    assert relation.valid.nonzero().tolist() == [[0, 1], [1, 0]]
    assert relation.above().nonzero().tolist() == [[1, 0]]
    assert relation.margin[1, 0] == 1 and relation.margin[0, 1] == -1 and not relation.margin[2].any()


def test_boxes_match_where_masks_do_not():
    """Masks of 2 of 4 px, whose IoU is 1/2, or of 1 px; the boxes are the annotated ones, or 4 px further."""
    target = toy_target(MASKS, LABELS)
    right = torch.tensor([4.0, 0, 4, 0])
    for columns, boxes, by_mask, by_box in (
        (range(2, 4), target.boxes, True, True),
        ([2], target.boxes, False, True),
        (range(2, 4), target.boxes + right, True, False),
        ([2], target.boxes + right, False, False),
    ):
        instances = replace(detections(strip(8, columns, columns)), boxes=boxes)
        for match, decided in (("mask", by_mask), ("box", by_box)):
            relation = relation_of(instances, target, match=match)
            assert relation.above().nonzero().tolist() == ([[1, 0]] if decided else []), (columns, match)


def test_annotations_without_a_known_order_are_not_decided():
    target = toy_target(MASKS, LABELS)
    counts = target.relation
    nobody = replace(target, relation=replace(counts, visible=torch.zeros_like(counts.visible)))
    assert not relation_of(detections(MASKS), nobody).valid.any()


def test_overlap_limits_of_annotations_and_of_detections():
    masks = strip(8, range(4), range(3, 8))  # 1 px in common: shares 1/4 and 1/5
    target = toy_target(masks, LABELS)
    for limits, decided in (
        ({"gt_sig_ratio": 0.25}, True),
        ({"gt_sig_ratio": 0.26}, False),
        ({"sig_ratio": 0.25}, True),
        ({"sig_ratio": 0.26}, False),
    ):
        assert bool(relation_of(detections(masks), target, **limits).valid.any()) == decided


def test_o7_majority_and_delta_disagree_when_a_third_object_hides_one():
    """i: rows 0-1 (8 px), j: rows 1-2 of columns 0-1 (4 px); a third segment owns row 0, i owns the 2 common px."""
    masks = [rectangle((0, 2), (0, 4)), rectangle((1, 3), (0, 2))]
    target = replace(toy_target(torch.stack(masks), LABELS), relation=O7)
    for rule, above in (("majority", [[0, 1]]), ("delta", [[1, 0]])):
        assert relation_of(detections(masks), target, rule=rule).above().nonzero().tolist() == above


def test_images_without_annotated_instances_and_without_annotations():
    assert not relation_of(detections(MASKS), toy_target(strip(8), LABELS[:0])).valid.any()
    with pytest.raises(ConfigError, match="evaluate an annotated split"):
        relation_of(detections(MASKS), None)
