"""OANet's spatial ranking: the oracles S1-S4, the label map, and the relation."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from helpers.ranking import literal_scores, loss_of, ranking, scene
from helpers.small_images import areas, fused
from panoptic_occ.common.errors import ConfigError
from panoptic_occ.config.compose import compose
from panoptic_occ.config.instantiate import safe_instantiate
from panoptic_occ.fusion.policy import FusionPolicy
from panoptic_occ.occlusion.oanet import instance_tensor, ranking_target
from panoptic_occ.structures.instances import InstanceSet
from panoptic_occ.structures.masks import MaskCrops, PairStats
from panoptic_occ.structures.panoptic_map import Segment
from panoptic_occ.structures.relation import Relation
from panoptic_occ.structures.semantic_map import VOID_LABEL
from panoptic_occ.structures.target import Target
from panoptic_occ.testing import toy_target

PERSON, TIE = 0, 1
NO_RELATION = Relation(torch.zeros(2, 2), torch.zeros(2, 2, dtype=torch.bool))


def person_with_tie(more: tuple[int, int] | None = None) -> Target:
    """4 x 4 px: a person everywhere, a tie in front in the centre 2 x 2; ``more``: a second person of one pixel."""
    masks = torch.zeros(2 if more is None else 3, 4, 4, dtype=torch.bool)
    masks[0] = True
    masks[-1, 1:3, 1:3] = True
    labels = [PERSON, TIE] if more is None else [PERSON, PERSON, TIE]
    if more is not None:
        masks[1][more] = True
    return toy_target(masks, torch.tensor(labels))


class TestOracles:
    def test_s1_label_map_and_loss_of_a_blind_module(self) -> None:
        target = person_with_tie()
        expected = torch.full((4, 4), VOID_LABEL)
        expected[1:3, 1:3] = TIE
        for conflict in ("instance", "class"):
            assert torch.equal(ranking_target(target, conflict, num_things=80), expected)  # type: ignore[arg-type]
        model = ranking(things=80)
        for parameter in model.parameters():
            torch.nn.init.zeros_(parameter)
        assert loss_of(model, target).item() == pytest.approx(4.3820, abs=5e-5)

    def test_s2_scores_order_and_areas(self) -> None:
        def logit(p: float) -> float:
            return math.log(p / (1 - p))

        model = ranking(things=2, conv="1x1")
        (kernel,) = model.conv.branches.parameters()
        with torch.no_grad():
            model.conv.bias.zero_()
            kernel.zero_()
            kernel[TIE, PERSON] = logit(0.2)  # p[tie] where only the person is
            kernel[TIE, TIE] = logit(0.9) - logit(0.2)
        target = person_with_tie()
        instances = InstanceSet(target.masks, target.boxes, torch.tensor([0.99, 0.66]), target.labels)
        stats = PairStats.of(instances.masks)
        relation = model(instances, stats)
        assert relation.value.tolist() == pytest.approx([0.625, 0.9])
        assert relation.order.tolist() == [TIE, PERSON]
        model.probability = "sigmoid"  # every class alone: no logit says anything of the person
        assert model(instances, stats).value.tolist() == pytest.approx([0.5, 0.9])
        model.probability = "softmax"
        policy = FusionPolicy(max_occluded=0.5, stuff_area=0)
        assert areas(fused(instances, relation, policy)) == [12, 4]
        assert areas(fused(instances, NO_RELATION, policy)) == [16, 0]

    def test_s3_conflict_of_one_class(self) -> None:
        target = person_with_tie(more=(0, 0))
        labels = {c: ranking_target(target, c, num_things=2) for c in ("instance", "class")}  # type: ignore[arg-type]
        assert labels["instance"][0, 0] == PERSON and labels["class"][0, 0] == VOID_LABEL
        labels["class"][0, 0] = PERSON
        assert torch.equal(labels["instance"], labels["class"])

    def test_s4_no_overlap_costs_nothing(self) -> None:
        masks = torch.zeros(2, 6, 6, dtype=torch.bool)
        masks[0, :3], masks[1, 3:] = True, True
        model = ranking()
        loss = loss_of(model, toy_target(masks, torch.tensor([0, 1])))
        loss.backward()
        assert loss.item() == 0
        assert all(p.grad is not None and not p.grad.any() for p in model.parameters())

    def test_s4_masks_of_one_class_are_set_not_added(self) -> None:
        masks = torch.zeros(3, 5, 6, dtype=torch.bool)
        masks[0, 1:4, 0:4], masks[1, 1:4, 2:6], masks[2, 2, 3] = True, True, True
        tensor = instance_tensor(MaskCrops.from_dense(masks), torch.tensor([1, 1, 0]), 2, (0, 0, 5, 6))
        assert tensor.float().max() == 1
        assert torch.equal(tensor, torch.stack([masks[2], masks[0] | masks[1]]))


class TestLabelMap:
    def test_crowds_stuff_and_void_are_ignored(self) -> None:
        target = person_with_tie()
        ids = target.panoptic.ids.clone()
        ids[1, 1], ids[1, 2] = 0, 9  # void, stuff
        segments = (*target.panoptic.segments, Segment(9, 2, False, 1))
        target = replace(target, panoptic=replace(target.panoptic, ids=ids, segments=segments))
        labels = ranking_target(target, "instance", num_things=2)
        assert labels[1:3, 1:3].tolist() == [[VOID_LABEL, VOID_LABEL], [TIE, TIE]]
        crowd = tuple(replace(s, iscrowd=s.id == 2) for s in segments)
        target = replace(target, panoptic=replace(target.panoptic, segments=crowd))
        assert (ranking_target(target, "instance", num_things=2) == VOID_LABEL).all()

    def test_against_pixels_one_by_one(self) -> None:
        target, _ = scene(7, seed=3)
        masks, semantic = target.masks.dense(), target.semantic()
        for conflict in ("instance", "class"):
            labels = ranking_target(target, conflict, num_things=3)  # type: ignore[arg-type]
            for y in range(22):
                for x in range(31):
                    covering = target.labels[masks[:, y, x]].tolist()
                    many = len(covering if conflict == "instance" else set(covering)) >= 2
                    assert labels[y, x] == (semantic[y, x] if many else VOID_LABEL)


class TestRelation:
    def test_every_overlapping_pair_is_decided(self) -> None:
        _, instances = scene(8)
        stats = PairStats.of(instances.masks)
        relation = ranking()(instances, stats)
        assert torch.equal(relation.valid, (stats.inter > 0) & ~torch.eye(8, dtype=torch.bool))
        assert torch.equal(relation.above(), relation.valid & (relation.value[:, None] > relation.value[None, :]))
        assert relation.antisymmetric and relation.transitive
        assert relation.order.tolist() == relation.value.argsort(descending=True).tolist()

    def test_equal_scores_keep_the_order_of_the_detections(self) -> None:
        model = ranking()
        for parameter in model.parameters():
            torch.nn.init.zeros_(parameter)
        _, instances = scene(8)
        shuffled = instances[torch.tensor([3, 0, 7, 5, 1, 2, 6, 4])]
        relation = model(shuffled, PairStats.of(shuffled.masks))
        assert relation.value.tolist() == pytest.approx([1 / 3] * 8)
        assert relation.order.tolist() == torch.argsort(shuffled.scores, descending=True).tolist()
        assert not relation.valid.any()

    def test_scores_depend_on_who_takes_part(self) -> None:
        model = ranking()
        _, instances = scene(8)
        some = instances[torch.arange(4)]
        all_scores = model(instances, PairStats.of(instances.masks)).value[:4]
        scores = model(some, PairStats.of(some.masks)).value
        torch.testing.assert_close(scores, literal_scores(model, some), rtol=1e-5, atol=1e-6)
        assert (scores - all_scores).abs().max() > 0.01


class TestSettings:
    def test_which_pairs_count_is_no_setting(self) -> None:
        config = compose(["occlusion=oanet", "+occlusion.intra=false"])
        with pytest.raises(ConfigError, match=r"has no parameter 'intra'"):
            safe_instantiate(config.occlusion)

    def test_method_is_wired(self) -> None:
        config = compose(["method=oanet", "data=coco"])
        assert [config.choices[group] for group in ("stuff", "occlusion", "fusion")] == ["oanet"] * 3
        published = {"stuff_area": 4900, "stuff_rule": "component", "max_occluded": 0.5, "conf_thr": 0.5}
        assert published.items() <= dict(config.fusion).items()
        for data, area in (("scenes", 77), ("scenes_tiny", 77), ("scenes_large", 1225)):
            scaled = compose(["method=oanet", f"data={data}"])
            assert scaled.fusion.stuff_area == area == round(scaled.data.stuff_area * 4900 / 4096)
