"""The annotated order fed into other methods (BANet Table 4, GT Occ)."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from helpers.small_images import areas, detections, fused, rectangle, strip
from helpers.toy_orders import COMMON
from panoptic_occ.fusion.policy import FusionPolicy
from panoptic_occ.occlusion.base import Context
from panoptic_occ.occlusion.baselines.area import AreaOrder
from panoptic_occ.occlusion.baselines.ground_truth import GroundTruthOrder, with_annotated_order
from panoptic_occ.occlusion.baselines.score import ScoreOrder
from panoptic_occ.structures.masks import MaskCrops, PairStats
from panoptic_occ.structures.relation import Relation
from panoptic_occ.testing import toy_detections, toy_sample, toy_target

POLICY = FusionPolicy(conf_thr=0, min_visible=0)


@pytest.mark.parametrize("seed", range(5))
def test_score_with_annotated_order_is_the_ground_truth(seed):
    target = toy_sample(6, seed).annotations
    instances = toy_detections(target, seed)
    stats = PairStats.of(instances.masks)
    plain = ScoreOrder(**COMMON)(instances, stats)
    told = with_annotated_order(plain, instances, stats, target)
    truth = GroundTruthOrder(**COMMON, sig_ratio=0.0)(instances, stats, Context(target=target))
    assert torch.equal(told.valid, truth.valid) and torch.equal(told.margin * told.valid, truth.margin * truth.valid)
    ids = [fused(instances, relation, POLICY).ids for relation in (plain, told, truth)]
    assert torch.equal(ids[1], ids[2]) and not torch.equal(ids[0], ids[1])


def test_pairs_of_unknown_order_stay_the_methods_own():
    target = toy_sample(5, seed=2).annotations
    instances = toy_detections(target)
    strange = torch.roll(instances.masks.dense()[:2], (2, 9), (1, 2))  # match no annotation by half
    instances = detections(torch.cat([instances.masks.dense(), strange]))
    masks, stats = instances.masks, PairStats.of(instances.masks)
    relation = AreaOrder(**COMMON, sig_ratio=0.0)(instances, stats)
    relation = replace(relation, score_decides=torch.ones(7, 7, dtype=torch.bool))
    told = with_annotated_order(relation, instances, stats, target)
    dense, ids, lead = masks.dense(), target.panoptic.ids, torch.zeros(7, 7)
    owned = [ids == 1 + next(k for k, m in enumerate(target.masks.dense()) if m.equal(mask)) for mask in dense[:5]]
    for i in range(5):
        for j in range(5):
            common = dense[i] & dense[j]
            lead[i, j] = (owned[i] & common).sum() - (owned[j] & common).sum()
    known = lead != 0
    assert 4 <= int(known.sum()) < int(relation.valid.sum())
    assert torch.equal(told.margin[~known], relation.margin[~known]) and torch.equal(told.valid, relation.valid)
    assert torch.equal(told.margin[known], lead[known].sign())
    assert torch.equal(told.score_decides, ~known)
    assert not told.transitive and told.value is None and torch.equal(told.margin, -told.margin.T)


def test_an_order_of_its_own_stays_and_the_annotated_pair_is_put_right():
    masks = torch.stack([rectangle((0, 4), (0, 6), (4, 8)), rectangle((0, 4), (4, 8), (4, 8))])
    target, instances = toy_target(masks, torch.tensor([0, 1])), detections(masks)  # annotation 1 lies in front
    stats = PairStats.of(instances.masks)
    for order in ([0, 1], [1, 0]):
        nothing = torch.zeros(2, 2)
        relation = Relation(nothing, nothing.bool(), torch.tensor(order))
        told = with_annotated_order(relation, instances, stats, target)
        assert told.order is relation.order
        assert areas(fused(instances, told, POLICY)) == [16, 16]


def test_claims_give_way_where_the_order_is_known():
    masks = strip(12, range(6), range(4, 9), range(7, 12))
    target = toy_target(masks[:2], torch.tensor([0, 1]))  # annotation 1 is in front of 0; nothing is known of the third
    instances = detections(masks)
    claims = MaskCrops.from_dense(strip(12, range(6), [6], range(7, 12)))  # 4, 5 go to instance 0 and 7, 8 to 2
    nothing = torch.zeros(3, 3)
    relation = Relation(nothing, nothing.bool(), claims=claims)
    assert areas(fused(instances, relation, POLICY)) == [6, 1, 5]
    told = with_annotated_order(relation, instances, PairStats.of(instances.masks), target)
    assert areas(fused(instances, told, POLICY)) == [4, 3, 5]


@pytest.mark.parametrize("count", [0, 1])
def test_few_instances(count):
    target = toy_sample(count).annotations
    instances = toy_detections(target)
    stats = PairStats.of(instances.masks)
    relation = replace(ScoreOrder(**COMMON)(instances, stats), claims=instances.masks)
    assert not with_annotated_order(relation, instances, stats, target).valid.any()
