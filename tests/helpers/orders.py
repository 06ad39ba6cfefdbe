"""What the tests of the orders share: toy instances, a fixed generator, and a few steps of training."""

from collections.abc import Sequence
from typing import Any

import torch

from panoptic_occ.occlusion.base import OcclusionModel, TrainingExample
from panoptic_occ.structures.instances import InstanceSet
from panoptic_occ.structures.masks import PairStats
from panoptic_occ.testing import toy_categories, toy_detections, toy_sample

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
