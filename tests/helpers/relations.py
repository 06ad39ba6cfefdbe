"""What the tests of the trained relations share: toy instances, a fixed generator, and a few steps of training."""

from collections.abc import Sequence

import torch

from panoptic_occ.occlusion.base import OcclusionModel, TrainingExample
from panoptic_occ.structures.instances import InstanceSet
from panoptic_occ.structures.masks import PairStats
from panoptic_occ.testing import toy_categories, toy_detections, toy_sample

COMMON = {"in_channels": 4, "categories": toy_categories()}


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(5)


def scene(count: int = 7, seed: int = 0) -> tuple[InstanceSet, PairStats]:
    instances = toy_detections(toy_sample(count, seed).annotations, seed)
    return instances, PairStats.of(instances.masks)


def overfit(model: OcclusionModel, examples: Sequence[TrainingExample], steps: int = 25) -> float:
    """The last loss."""
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = model.loss(examples, generator())["loss_occlusion"]
        loss.backward()
        optimizer.step()
    return loss.item()
