from dataclasses import replace

import pytest
import torch

from panoptic_occ.common.errors import ConfigError
from panoptic_occ.fusion.engine import fuse
from panoptic_occ.fusion.policy import FusionPolicy
from panoptic_occ.occlusion.base import Context
from panoptic_occ.occlusion.baselines.ground_truth import GroundTruthOrder
from panoptic_occ.structures.instances import InstanceSet
from panoptic_occ.structures.masks import MaskCrops, PairStats
from panoptic_occ.structures.relation import GroundTruthRelation
from panoptic_occ.testing import toy_categories, toy_detections, toy_sample, toy_target

COMMON = {"in_channels": 4, "categories": toy_categories()}


def ask(model, instances, target):
    return model(instances, PairStats.of(instances.masks), Context(target=target))


def strip(columns, length=8):
    dense = torch.zeros((len(columns), 1, length), dtype=torch.bool)
    for mask, (left, right) in zip(dense, columns, strict=True):
        mask[0, left:right] = True
    return dense


def detections(dense):
    n = len(dense)
    labels = torch.zeros(n, dtype=torch.int64)
    return InstanceSet(MaskCrops.from_dense(dense), torch.zeros(n, 4), torch.linspace(0.9, 0.6, n), labels)


def test_perfect_detections_in_any_score_order_give_the_annotated_map():
    for seed in range(10):
        target = toy_sample(6, seed).target
        instances = toy_detections(target, seed)
        relation = ask(GroundTruthOrder(sig_ratio=0.0, **COMMON), instances, target)
        panoptic = fuse(instances, PairStats.of(instances.masks), relation, None, FusionPolicy())
        annotation = {s.instance: s.id for s in panoptic.segments}
        generator = torch.Generator().manual_seed(seed + 1)
        chosen = torch.randperm(6, generator=generator)  # the same shuffle as in toy_detections
        expected = torch.zeros_like(panoptic.ids)
        for k, segment_id in annotation.items():
            expected[target.panoptic.ids == chosen[k] + 1] = segment_id
        assert torch.equal(panoptic.ids, expected)


def test_unmatched_detections_keep_the_order_of_the_scores():
    target = toy_target(strip([(0, 4), (2, 6)]), torch.tensor([0, 1]))
    instances = detections(strip([(0, 4), (2, 6), (3, 8)]))  # the third has IoU 3/6 with the second, which is taken
    relation = ask(GroundTruthOrder(**COMMON), instances, target)
    assert relation.valid.nonzero().tolist() == [[0, 1], [1, 0]]
    assert relation.above().nonzero().tolist() == [[1, 0]]
    assert relation.margin[1, 0] == 1 and relation.margin[0, 1] == -1 and not relation.margin[2].any()


def test_boxes_match_where_masks_do_not():
    """Masks of 2 of 4 px, whose IoU is 1/2, or of 1 px; the boxes are the annotated ones, or 4 px further."""
    target = toy_target(strip([(0, 4), (2, 6)]), torch.tensor([0, 1]))
    right = torch.tensor([4.0, 0, 4, 0])
    for columns, boxes, by_mask, by_box in (
        ([(2, 4), (2, 4)], target.boxes, True, True),
        ([(2, 3), (2, 3)], target.boxes, False, True),
        ([(2, 4), (2, 4)], target.boxes + right, True, False),
        ([(2, 3), (2, 3)], target.boxes + right, False, False),
    ):
        instances = replace(detections(strip(columns)), boxes=boxes)
        for match, decided in (("mask", by_mask), ("box", by_box)):
            relation = ask(GroundTruthOrder(match=match, **COMMON), instances, target)
            assert relation.above().nonzero().tolist() == ([[1, 0]] if decided else []), (columns, match)


def test_annotations_without_a_known_order_are_not_decided():
    target = toy_target(strip([(0, 4), (2, 6)]), torch.tensor([0, 1]))
    tied = GroundTruthRelation(
        target.relation.area,
        target.relation.pan_area,
        target.relation.inter,
        torch.zeros_like(target.relation.own),
    )
    nobody = replace(target, relation=tied)
    assert not ask(GroundTruthOrder(**COMMON), detections(strip([(0, 4), (2, 6)])), nobody).valid.any()


def test_overlap_limits_of_annotations_and_of_detections():
    columns = [(0, 4), (3, 8)]  # 1 px in common: shares 1/4 and 1/5
    target = toy_target(strip(columns), torch.tensor([0, 1]))
    for limits, decided in (
        ({"gt_sig_ratio": 0.25}, True),
        ({"gt_sig_ratio": 0.26}, False),
        ({"sig_ratio": 0.25}, True),
        ({"sig_ratio": 0.26}, False),
    ):
        relation = ask(GroundTruthOrder(**limits, **COMMON), detections(strip(columns)), target)
        assert bool(relation.valid.any()) == decided


def test_o7_majority_and_delta_disagree_when_a_third_object_hides_one():
    """i: rows 0-1 (8 px), j: rows 1-2 of columns 0-1 (4 px); a third segment owns row 0, i owns the 2 common px."""
    dense = torch.zeros((2, 4, 4), dtype=torch.bool)
    dense[0, :2] = True
    dense[1, 1:3, :2] = True
    target = toy_target(dense, torch.tensor([0, 1]))
    relation = GroundTruthRelation(
        area=torch.tensor([8, 4]),
        pan_area=torch.tensor([4, 2]),
        inter=torch.tensor([[8, 2], [2, 4]]),
        own=torch.tensor([[4, 2], [0, 2]]),
    )
    target = replace(target, relation=relation)
    for rule, above in (("majority", [[0, 1]]), ("delta", [[1, 0]])):
        assert ask(GroundTruthOrder(rule=rule, **COMMON), detections(dense), target).above().nonzero().tolist() == above


def test_errors_say_what_to_do():
    instances = detections(strip([(0, 4)]))
    with pytest.raises(ConfigError, match="evaluate an annotated split"):
        ask(GroundTruthOrder(**COMMON), instances, None)
    with pytest.raises(ConfigError, match="did you mean 'delta'"):
        GroundTruthOrder(rule="dleta", **COMMON)
    with pytest.raises(ConfigError, match=r"occlusion\.match='boxes' is unknown; did you mean 'box'"):
        GroundTruthOrder(match="boxes", **COMMON)


def test_image_without_annotations():
    target = toy_target(strip([]), torch.zeros(0, dtype=torch.int64))
    relation = ask(GroundTruthOrder(**COMMON), detections(strip([(0, 4), (2, 6)])), target)
    assert not relation.valid.any()
