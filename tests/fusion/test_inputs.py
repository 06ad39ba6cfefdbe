"""What the fusion refuses, each by one error that says what is meant."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from helpers.small_images import ABC, detections
from panoptic_occ.fusion.engine import fuse
from panoptic_occ.fusion.inputs import say_that_stuff_is_lost
from panoptic_occ.fusion.policy import FusionPolicy
from panoptic_occ.structures.masks import PairStats
from panoptic_occ.structures.panoptic_map import PanopticMap
from panoptic_occ.structures.relation import Relation
from panoptic_occ.structures.semantic_map import SemanticMap
from panoptic_occ.testing import toy_categories

INSTANCES = detections(ABC)  # of the labels 0, 1, 2
NO_ORDER = Relation(torch.zeros(3, 3), torch.zeros(3, 3, dtype=torch.bool))
STUFF = torch.full((4, 4), 3)
CATEGORIES = toy_categories(things=3, stuff=2)


def fused(**changed: Any) -> PanopticMap:
    parts: dict[str, Any] = {
        "instances": INSTANCES,
        "stats": PairStats.of(INSTANCES.masks),
        "relation": NO_ORDER,
        "semantic": STUFF,
        "policy": FusionPolicy(stuff_area=1),
    }
    return fuse(**parts | changed)


def painted(label: int) -> torch.Tensor:
    """One pixel of another label, below an instance."""
    semantic = STUFF.clone()
    semantic[0, 0] = label
    return semantic


@pytest.mark.parametrize("categories", [None, CATEGORIES])
def test_good_inputs_pass(categories: Any) -> None:
    for semantic in (None, STUFF, STUFF.byte(), painted(-1), painted(4).short(), lambda things: STUFF):
        fused(semantic=semantic, categories=categories)
    fused(instances=replace(INSTANCES, scores=torch.tensor([1.0, 0.5, 0.0])), categories=categories)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"scores": torch.tensor([0.9, 87.0, 0.1])}, "instance 1 has the score 87; a probability.*per cent"),
        ({"scores": torch.tensor([0.9, 0.8, -0.1])}, "instance 2 has the score -0.1"),
        ({"scores": torch.tensor([0.9, torch.nan, 0.1])}, "instance 1 has the score nan.*without a score"),
        ({"labels": torch.tensor([0, 1, -1])}, "instance 2 has the label -1; contiguous thing labels 0, 1, ..."),
        ({"labels": torch.tensor([0, 255, 1])}, "instance 1 has the label 255, the ignore label of many.*categories="),
        ({"labels": torch.tensor([0, 1, 65535])}, "instance 2 has the label 65535, the ignore label of many tools"),
        ({"labels": torch.tensor([0.0, 1, 2])}, "labels of the instances are torch.float32"),
    ],
)
def test_scores_and_labels_of_instances(changed: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        fused(instances=replace(INSTANCES, **changed))


@pytest.mark.parametrize("rule", ["class", "component"])
@pytest.mark.parametrize(
    ("semantic", "categories", "words"),
    [
        (painted(2), None, r"holds 2, a label of things \(0 .. 2\)"),
        (painted(2), CATEGORIES, r"holds 2, a label of things \(0 .. 2\)"),
        (painted(0).byte(), None, "holds 0, a label of things"),
        (painted(255), None, "holds 255, the ignore label.*-1"),
        (painted(255).byte(), CATEGORIES, "holds 255, the ignore label"),
        (painted(65535), None, "holds 65535, the ignore label.*-1"),
        (painted(65535).int(), CATEGORIES, "holds 65535, the ignore label"),
        (painted(5), CATEGORIES, r"holds 5; the 5 categories have the contiguous labels 0 .. 4"),
        (STUFF.float(), None, "torch.float32; labels are whole numbers"),
        (STUFF > 0, None, "torch.bool; labels are whole numbers"),
        (STUFF[:3], None, r"\(3, 4\) px, the masks are of an image of \(4, 4\)"),
        (torch.rand(5, 4, 4), None, r"\(5, 4, 4\) px.*argmax\(dim=0\)"),
        (SemanticMap(STUFF), None, "stuff is a SemanticMap.*its labels"),
        (STUFF.numpy(), None, "stuff is a ndarray.*from_numpy"),
    ],
)
def test_stuff(semantic: Any, categories: Any, words: str, rule: Any) -> None:
    policy = FusionPolicy(stuff_area=1, stuff_rule=rule)
    with pytest.raises(ValueError, match=words):
        fused(semantic=semantic, categories=categories, policy=policy)
    if isinstance(semantic, torch.Tensor):
        for late in ({"semantic": lambda things: semantic}, {"relation": replace(NO_ORDER, stuff=semantic)}):
            with pytest.raises(ValueError, match=words):
                fused(**late, categories=categories, policy=policy)


def test_255_may_be_a_category() -> None:
    *_, stuff = fused(semantic=torch.full((4, 4), 255), categories=toy_categories(3, 260)).segments
    assert stuff.label == 255
    things = replace(INSTANCES, labels=torch.tensor([0, 255, 1]))
    thing, *_ = fused(instances=things, semantic=None, categories=toy_categories(256, 4)).segments
    assert 255 in {segment.label for segment in (thing, *_)}


def test_thing_labels_outside_the_categories() -> None:
    with pytest.raises(ValueError, match=r"instance 2 has the label 2; contiguous thing labels 0 .. 1"):
        fused(categories=toy_categories(things=2, stuff=3))


@pytest.fixture
def _new_process() -> Iterator[None]:
    say_that_stuff_is_lost.cache_clear()
    yield
    say_that_stuff_is_lost.cache_clear()


@pytest.mark.usefixtures("_new_process")
def test_that_stuff_is_lost_in_small_images_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    """A quarter of the 16 pixels is no reason yet."""
    with caplog.at_level(logging.WARNING, logger="panoptic_occ"):
        for area in (0, 4, 0.9):
            fused(policy=FusionPolicy(stuff_area=area))
        fused(semantic=None, policy=FusionPolicy(stuff_area=4096))
        assert not caplog.records
        for _ in range(2):
            assert all(segment.isthing for segment in fused(policy=FusionPolicy()).segments)
    (record,) = caplog.records
    assert "stuff_area=4096 pixels is more than a quarter of an image" in record.getMessage()
