"""Orders without a network need neither the channels of one nor categories."""

from __future__ import annotations

import pytest
import torch

from helpers.toy_orders import COMMON
from panoptic_occ.common.errors import ConfigError
from panoptic_occ.occlusion.banet import AppearanceOrder
from panoptic_occ.occlusion.base import Context, OcclusionModel
from panoptic_occ.occlusion.baselines.area import AreaOrder
from panoptic_occ.occlusion.baselines.class_prior import ClassPrior
from panoptic_occ.occlusion.baselines.ground_truth import GroundTruthOrder
from panoptic_occ.occlusion.baselines.random import RandomOrder
from panoptic_occ.occlusion.baselines.score import ScoreOrder
from panoptic_occ.occlusion.ocfusion import OCFusion
from panoptic_occ.occlusion.sognet import RelationalEmbedding
from panoptic_occ.occlusion.upsnet import PixelArgmax
from panoptic_occ.structures.masks import PairStats
from panoptic_occ.testing import toy_detections, toy_sample


@pytest.mark.parametrize("order", [ScoreOrder, AreaOrder, RandomOrder, AppearanceOrder, ClassPrior, GroundTruthOrder])
def test_says_the_same_with_and_without(order: type[OcclusionModel]) -> None:
    sample = toy_sample(7)
    instances = toy_detections(sample.annotations)
    relations = []
    for model in (order(), order(**COMMON)):
        if "class_table" in model.requires:
            model.use_class_table(torch.arange(9).view(3, 3))
        context = Context(image=sample.image, target=sample.target)
        relations.append(model(instances, PairStats.of(instances.masks), context))
    for name, value in vars(relations[0]).items():
        other = getattr(relations[1], name)
        assert torch.equal(value, other) if isinstance(value, torch.Tensor) else value == other
    assert bool(relations[0].valid.any()) == (order is not ScoreOrder)


def test_a_class_table_is_square() -> None:
    with pytest.raises(ValueError, match=r"shape \(2, 3\), 2 thing classes"):
        ClassPrior().use_class_table(torch.zeros(2, 3))


@pytest.mark.parametrize("order", [RelationalEmbedding, PixelArgmax])
def test_an_order_that_needs_categories_asks_for_them(order: type[OcclusionModel]) -> None:
    with pytest.raises(ConfigError, match=rf"{order.__name__}\(categories="):
        order()


def test_a_network_needs_its_channels() -> None:
    with pytest.raises(TypeError, match="in_channels"):
        OCFusion()  # type: ignore[call-arg]
