"""Relations side by side on the same detections."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from panoptic_occ.evaluation import Entry, Evaluation
from panoptic_occ.fusion.engine import FusionPolicy
from panoptic_occ.masks import PairStats
from panoptic_occ.model import BaseOutput
from panoptic_occ.occlusion.area import AreaOrder
from panoptic_occ.occlusion.ground_truth import GroundTruthOrder
from panoptic_occ.occlusion.score import ScoreOrder
from panoptic_occ.structures import VOID_LABEL, Sample, SemanticMap
from panoptic_occ.testing import toy_categories, toy_detections, toy_sample, toy_semantic

PARTS = {"in_channels": 4, "categories": toy_categories()}


def make_evaluation() -> Evaluation:
    models = {"score": ScoreOrder, "area": AreaOrder, "ground_truth": GroundTruthOrder}
    policy = FusionPolicy(conf_thr=0, min_visible=0, stuff_area=1)
    entries = [Entry(name, name, model(**PARTS, sig_ratio=0.0), policy) for name, model in models.items()]
    return Evaluation(entries, toy_categories())


def perfect(sample: Sample) -> BaseOutput:
    """The annotations as detections, and the annotated stuff."""
    assert sample.target is not None
    instances = toy_detections(sample.target)
    semantic = sample.target.semantic()
    things = toy_categories().num_things
    stuff = torch.where(semantic < things, VOID_LABEL, semantic)
    return BaseOutput(instances, PairStats.of(instances.masks), SemanticMap(stuff))


def test_true_order_of_perfect_detections_is_perfect() -> None:
    evaluation = make_evaluation()
    for seed in range(6):
        sample = toy_sample(5, seed)
        maps = evaluation.update(sample, perfect(sample))
        assert set(maps) == {"score", "area", "ground_truth"}
    rows = evaluation.rows()
    assert rows["ground_truth"]["PQ"] == pytest.approx(1.0, abs=1e-9)
    assert rows["ground_truth"]["relation_accuracy"] == 1.0
    assert rows["score"]["PQ"] < 1.0
    assert rows["score"]["relation_accuracy"] == rows["area"]["score_accuracy"] < 1.0
    assert rows["area"]["relation_accuracy"] == rows["score"]["area_accuracy"]
    assert rows["score"]["coverage"] == 1.0


def test_nothing_to_see_is_no_error() -> None:
    rows = make_evaluation().rows()
    assert math.isnan(rows["score"]["relation_accuracy"]) and rows["score"]["pairs"] == 0


def test_requires_is_the_union() -> None:
    assert make_evaluation().requires == {"target"}


def test_policies_that_erase_see_the_logits() -> None:
    score = ScoreOrder(**PARTS)
    keep, erase = (FusionPolicy(conf_thr=0, stuff_area=1, erase_thr=thr, erase_radius=1) for thr in (None, 0.5))
    entries = [Entry("keep", "score", score, keep), Entry("erase", "score", score, erase)]
    evaluation = Evaluation(entries, toy_categories())
    assert evaluation.requires == {"semantic_logits"}
    sample = toy_sample(1)
    semantic = toy_semantic(sample)
    instances = toy_detections(sample.annotations)
    maps = evaluation.update(sample, BaseOutput(instances, PairStats.of(instances.masks), semantic))
    things = maps["keep"].segments[:1]
    assert maps["erase"].segments == things, "noise is never sure of anything"
    assert len(maps["keep"].segments) == 3
    assert torch.equal(maps["erase"].ids, torch.where(maps["keep"].ids == 1, 1, 0))


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads the resident memory from /proc")
def test_resident_memory_does_not_grow_with_the_images() -> None:
    def resident() -> float:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20

    evaluation = make_evaluation()

    def evaluate(images: int) -> None:
        for seed in range(images):
            sample = toy_sample(6, seed % 10, size=(120, 160))  # one image and its maps take about 0.3 MiB
            evaluation.update(sample, perfect(sample))

    evaluate(15)
    before = resident()
    evaluate(60)
    assert resident() - before < 6  # keeping the images would take about 18
