"""What the tests of the orders share: toy instances, a fixed generator, and a few steps of training."""

from collections.abc import Sequence
from typing import Any

import torch

from panoptic_occ.occlusion.base import OcclusionModel, TrainingExample
from panoptic_occ.structures.instances import InstanceSet
from panoptic_occ.structures.masks import PairStats
from panoptic_occ.structures.relation import GroundTruthRelation
from panoptic_occ.testing import toy_categories, toy_detections, toy_sample

# one of 8 px and one of 4 px lost 4 and 2 px, mostly to a third one; the first owns the 2 px that they share
O7 = GroundTruthRelation(
    area=torch.tensor([8, 4]),
    pan_area=torch.tensor([4, 2]),
    inter=torch.tensor([[8, 2], [2, 4]]),
    visible=torch.tensor([[4, 2], [0, 2]]),
)
COMMON: dict[str, Any] = {"in_channels": 4, "categories": toy_categories()}


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(5)


def built(order: type[OcclusionModel], **options: Any) -> OcclusionModel:
    """The same weights for the same options."""
    torch.manual_seed(0)
    return order(**{**COMMON, **options})


def scene(count: int = 7, seed: int = 0) -> tuple[InstanceSet, PairStats]:
    instances = toy_detections(toy_sample(count, seed).annotations, seed)
    return instances, PairStats.of(instances.masks)


def all_pairs(n: int) -> torch.Tensor:
    return torch.cartesian_prod(torch.arange(n), torch.arange(n))


def overfit(model: OcclusionModel, examples: Sequence[TrainingExample], steps: int = 25) -> float:
    """The last loss."""
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = model.loss(examples, generator())["loss_occlusion"]
        loss.backward()
        optimizer.step()
    return loss.item()
