"""The methods without parameters: score, area, random."""

from dataclasses import replace

import pytest
import torch
from torchvision.ops import nms

from helpers.small_images import ask, detections, fused, rectangle
from helpers.toy_orders import COMMON, scene
from panoptic_occ.fusion.policy import FusionPolicy
from panoptic_occ.occlusion.baselines.area import AreaOrder
from panoptic_occ.occlusion.baselines.random import RandomOrder
from panoptic_occ.occlusion.baselines.score import ScoreOrder
from panoptic_occ.structures.masks import MaskCrops, PairStats

# 16, 4 and 1 px, each inside the one before, and 4 px elsewhere
NESTED = [rectangle((a, b), (a, b), (6, 6)) for a, b in ((0, 4), (1, 3), (1, 2), (4, 6))]


class TestScore:
    def test_decides_nothing(self):
        instances = detections(NESTED)
        relation = ask(ScoreOrder(**COMMON), instances)
        assert not relation.valid.any() and not relation.margin.any()
        assert torch.equal(relation.value, instances.scores)

    def test_suppression_of_all_classes_goes_first(self):
        """mmdetection's heuristic: class-agnostic NMS, then the plain fusion of what is left."""
        instances, _ = scene(8, 3)
        kept = nms(instances.boxes, instances.scores, 0.3).sort().values
        assert 0 < len(kept) < len(instances)
        left, policy = instances[kept], FusionPolicy()  # without NMS, remains of all would be kept
        expected = fused(left, ask(ScoreOrder(**COMMON), left), policy).ids
        suppressed = ask(ScoreOrder(nms="box", nms_thr=0.3, **COMMON), instances)
        assert torch.equal(fused(instances, suppressed, policy).ids, expected) and (expected > 0).any()

    def test_there_is_nothing_to_train(self):
        model = ScoreOrder(**COMMON)
        assert not model.trainable
        with pytest.raises(NotImplementedError, match="ScoreOrder has nothing to train"):
            model.loss([], torch.Generator())


class TestArea:
    def test_smaller_lies_above_on_significant_pairs_only(self):
        relation = ask(AreaOrder(**COMMON), detections(NESTED))
        assert relation.above().nonzero().tolist() == [[1, 0], [2, 0], [2, 1]]
        assert relation.margin[1, 0] == 12 and relation.margin[0, 1] == -12
        assert not relation.valid[3].any()

    def test_larger_lies_above(self):
        relation = ask(AreaOrder(smaller_on_top=False, **COMMON), detections(NESTED))
        assert relation.above().nonzero().tolist() == [[0, 1], [0, 2], [1, 2]]

    def test_value_agrees_with_the_margin(self):
        for smaller in (True, False):
            relation = ask(AreaOrder(smaller_on_top=smaller, **COMMON), detections(NESTED))
            assert torch.equal(relation.value[:, None] - relation.value[None, :], relation.margin)

    def test_large_areas_that_differ_by_one_pixel(self):
        """2**24 and 2**24 + 1 are the same float32."""
        instances = detections(NESTED[:2])
        inter = torch.tensor([[2**24, 2**24], [2**24, 2**24 + 1]])
        relation = AreaOrder(**COMMON)(instances, PairStats(inter.diagonal(), inter))
        assert relation.above().nonzero().tolist() == [[0, 1]]

    @pytest.mark.parametrize(
        ("switches", "expected"),
        [
            ({"intra": False}, [[2, 0], [2, 1]]),
            ({"inter": False}, [[1, 0]]),
            ({"sig_ratio": 1.0, "significance": "both"}, []),
            ({"significance": "both", "sig_ratio": 0.25}, [[1, 0], [2, 1]]),
            ({"significance": "directional", "sig_ratio": 0.3}, [[1, 0], [2, 0], [2, 1]]),
        ],
    )
    def test_switches_of_the_base_class(self, switches, expected):
        relation = ask(AreaOrder(**switches, **COMMON), detections(NESTED, labels=[0, 0, 1, 1]))
        assert relation.above().nonzero().tolist() == expected


class TestRandom:
    def test_half_of_the_pairs_each_way(self):
        wins = total = 0
        for seed in range(60):
            relation = RandomOrder(sig_ratio=0.0, **COMMON)(*scene(8, seed))
            pairs = relation.valid.triu()
            total += int(pairs.sum())
            wins += int((relation.above() & pairs).sum())
        assert total > 500
        assert abs(wins / total - 0.5) < 4 * 0.5 / total**0.5  # four standard deviations

    def test_seed_changes_the_order(self):
        instances = detections(NESTED)
        values = [ask(RandomOrder(seed=seed, **COMMON), instances).value for seed in (0, 1)]
        assert not torch.equal(*values)

    def test_cropping_of_the_masks_does_not_matter(self):
        tight, model = detections(NESTED), RandomOrder(**COMMON)
        loose = replace(tight, masks=MaskCrops.from_crops(NESTED, [(0, 0)] * 4, (6, 6)))
        assert torch.equal(ask(model, tight).value, ask(model, loose).value)

    def test_same_order_in_every_process_and_version(self):
        """Written down once, from blake2b of "(0, 16, 24, 24)": a mask of 16 px in rows and columns 0 to 3."""
        value = ask(RandomOrder(**COMMON), detections(NESTED)).value
        assert value[0].item() == 12020438 / 2**24
