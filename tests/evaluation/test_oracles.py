"""The oracle analysis (BANet Table 4): each part from the annotations, alone and together."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import Tensor, nn

from helpers.evaluation import entries_of
from panoptic_occ.common.errors import ConfigError
from panoptic_occ.evaluation.evaluator import Evaluation
from panoptic_occ.exchange.base import Exchange
from panoptic_occ.fusion.policy import FusionPolicy
from panoptic_occ.metrics.breakdown import Binning
from panoptic_occ.network.panoptic_fpn import PanopticFPN
from panoptic_occ.occlusion.baselines.score import ScoreOrder
from panoptic_occ.structures.base_output import BaseOutput
from panoptic_occ.structures.instances import InstanceSet
from panoptic_occ.structures.masks import MaskCrops, PairStats
from panoptic_occ.structures.panoptic_map import PanopticMap, Segment
from panoptic_occ.structures.sample import Sample
from panoptic_occ.structures.semantic_map import VOID_LABEL, SemanticMap
from panoptic_occ.stuff.base import StuffHead
from panoptic_occ.testing import toy_categories, toy_target
from panoptic_occ.thing.mask_rcnn import MaskRCNN
from panoptic_occ.thing.oracle import RoiOracle

ORACLES = ("box", "class", "order", "stuff")
CATEGORIES = toy_categories()
PARTS = {"in_channels": 32, "categories": CATEGORIES}
POLICY = FusionPolicy(conf_thr=0.5, min_visible=0.0, stuff_area=1, erase_thr=0.99)


class Pyramid(nn.Module):
    """Noise of the image's size as features."""

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(0)
        sizes = {"0": 4, "1": 8, "2": 16, "3": 32, "pool": 64}
        height, width = images.shape[-2:]
        return {
            name: torch.randn(len(images), 32, -(-height // s), -(-width // s), generator=generator)
            for name, s in sizes.items()
        }


class NoisyStuff(StuffHead):
    """A stuff branch that never learned anything."""

    def trunk(self, features: dict[str, Tensor]) -> Tensor:
        return features["0"]


class PerfectMasks(MaskRCNN):
    """Its masks fill their boxes, as the things of these scenes do."""

    def mask_logits(self, mask_features: Tensor) -> Tensor:
        return torch.full((len(mask_features), CATEGORIES.num_things + 1, 28, 28), 20.0)


def scene(seed: int) -> Sample:
    """Overlapping rectangles on two kinds of stuff, seen by the network at twice the size."""
    generator = torch.Generator().manual_seed(seed)
    height, width = 48, 64
    masks = torch.zeros(5, height, width, dtype=torch.bool)
    for mask in masks:
        top, left = (int(torch.randint(0, edge - 20, (), generator=generator)) for edge in (height, width))
        h, w = torch.randint(10, 20, (2,), generator=generator).tolist()
        mask[top : top + h, left : left + w] = True
    labels = torch.randint(0, CATEGORIES.num_things, (5,), generator=generator)
    target = toy_target(masks, labels)
    ids = target.panoptic.ids.clone()
    free = ids == 0
    ids[free] = 8
    ids[:, width // 2 :][free[:, width // 2 :]] = 9
    stuff = tuple(Segment(i, i - 5, False, int((ids == i).sum())) for i in (8, 9))
    target = replace(target, panoptic=PanopticMap(ids, target.panoptic.segments + stuff))
    image = torch.randint(0, 256, (3, 2 * height, 2 * width), generator=generator, dtype=torch.uint8)
    return Sample(image, seed, f"scene {seed}", (height, width), target, original=image[:, ::2, ::2])


SCENES = [scene(seed) for seed in range(4)]


@cache
def evaluated(oracle: tuple[str, ...], policy: FusionPolicy = POLICY) -> tuple[Evaluation, list[BaseOutput]]:
    """An evaluation with these parts, and what the base gave it."""
    evaluation = Evaluation(entries_of(policy), CATEGORIES, oracle=frozenset(oracle), details=Binning())
    torch.manual_seed(0)
    head = {"anchor_scale": 4, "hidden": 16, "mask_convs": 1, "score_thr": 0.0, "max_detections": 60}
    thing, stuff = PerfectMasks(**PARTS, **head, rpn_test=(200, 60)), NoisyStuff(CATEGORIES, 32)
    if {"box", "class"} & set(oracle):
        thing.use_oracle(RoiOracle("box" in oracle, "class" in oracle))
    exchange, weights = Exchange(**PARTS, stuff=stuff), {"thing": 1, "stuff": 1}
    model = PanopticFPN(Pyramid(), thing, stuff, exchange, ScoreOrder(**PARTS), weights).eval()
    outputs = model.base_outputs(SCENES, evaluation.conf_thr, evaluation.requires)
    for sample, output in zip(SCENES, outputs, strict=True):
        evaluation.update(sample, output)
    return evaluation, outputs


def test_all_parts_together_are_perfect() -> None:
    evaluation, _ = evaluated(ORACLES)
    for name, row in evaluation.rows().items():
        assert row["PQ"] == row["RQ"] == 1.0, name
        assert row["relation_accuracy"] == row["coverage"] == 1.0, name
        assert "relation_ms" not in row  # a restarted run must end with equal numbers
    assert all(result.fn == 0 for result in evaluation.breakdowns().values())


@pytest.mark.parametrize("missing", ORACLES)
def test_without_any_one_of_them_it_is_not_perfect(missing: str) -> None:
    policy = replace(POLICY, erase_thr=None)
    rows = evaluated(tuple(part for part in ORACLES if part != missing), policy)[0].rows()
    assert rows["score"]["PQ"] < 0.99
    assert (rows["score"]["PQ_th"] < 0.99) == (missing != "stuff")


def test_order_with_score_is_the_ground_truth_row() -> None:
    plain, outputs = evaluated(("box", "class"))
    told, same = evaluated(("box", "class", "order"))
    assert [o.instances.boxes.tolist() for o in outputs] == [o.instances.boxes.tolist() for o in same]
    before, after = plain.rows(), told.rows()
    assert after["score"]["PQ"] == after["ground_truth"]["PQ"] == before["ground_truth"]["PQ"] > before["score"]["PQ"]
    assert repr(after["ground_truth"]) == repr(before["ground_truth"])  # NaN is not equal to itself
    assert after["score"]["by_score"] < before["score"]["by_score"] == 1.0


def test_order_by_box_finds_annotations_of_which_the_masks_show_little() -> None:
    """Two boxes as annotated, and masks of the 40 % that they share; annotation 1 is in front."""
    masks = torch.zeros(2, 4, 16, dtype=torch.bool)
    masks[0, :, :10], masks[1, :, 6:] = True, True
    target = toy_target(masks, torch.tensor([0, 1]))
    common = MaskCrops.from_dense((masks[0] & masks[1]).expand(2, -1, -1))
    instances = InstanceSet(common, target.boxes, torch.tensor([0.9, 0.8]), target.labels)
    output = BaseOutput(instances, PairStats.of(common), SemanticMap(torch.full((4, 16), VOID_LABEL)))
    sample = replace(SCENES[0], target=target)
    for oracle, areas in (((), [16, 0]), (("order",), [16, 0]), (("order_by_box",), [0, 16])):
        evaluation = Evaluation(entries_of(replace(POLICY, erase_thr=None))[:1], CATEGORIES, oracle=frozenset(oracle))
        assert [record.final for record in evaluation.update(sample, output)["score"].records] == areas, oracle
    by_mask, by_box = (evaluated(("box", "class", order))[0].rows() for order in ("order", "order_by_box"))
    assert repr(by_mask) == repr(by_box)  # where masks fill their boxes


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"order", "order_by_box"}, r"oracle=\[order,order_by_box\]: two ways to match annotations; leave one"),
        ({"boxes"}, r"oracle=\[boxes\] is unknown; did you mean 'box'"),
    ],
)
def test_parts_that_cannot_be(parts: set[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Evaluation(entries_of(POLICY), CATEGORIES, oracle=frozenset(parts))


def test_stuff_changes_the_stuff_and_never_the_detections() -> None:
    policy = replace(POLICY, erase_thr=None)
    plain, outputs = evaluated(("box", "class"), policy)
    told, same = evaluated(("box", "class", "stuff"), policy)
    for before, after in zip(outputs, same, strict=True):
        assert torch.equal(before.instances.masks.pixels, after.instances.masks.pixels)
    before, after = plain.rows(), told.rows()
    for name in before:
        assert after[name]["PQ_st"] > before[name]["PQ_st"]
        assert after[name]["PQ_th"] == before[name]["PQ_th"] > 0


def test_box_ignores_the_threshold_of_scores() -> None:
    never = replace(POLICY, conf_thr=1.0, erase_thr=None)
    assert evaluated((), never)[0].rows()["score"]["PQ_th"] == 0
    evaluation, outputs = evaluated(("box", "class", "order"), never)
    assert evaluation.rows()["score"]["PQ_th"] == 1.0
    annotated = [len(sample.annotations.labels) for sample in SCENES]
    assert [len(output.instances) for output in outputs] == annotated
