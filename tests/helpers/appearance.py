"""BANet's occlusion handling on small pictures: the relation, and who owns which pixel then."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from helpers import small_images
from panoptic_occ.fusion.policy import FusionPolicy
from panoptic_occ.occlusion.banet import AppearanceOrder
from panoptic_occ.structures.instances import InstanceSet
from panoptic_occ.structures.relation import Relation
from panoptic_occ.testing import toy_categories

BANET = FusionPolicy(conf_thr=0.6, max_occluded=0.5)
NO_DROP = FusionPolicy(conf_thr=0.6)


def ask(image: Tensor, instances: InstanceSet, **options: Any) -> Relation:
    order = AppearanceOrder(in_channels=4, categories=toy_categories(), **options)
    return small_images.ask(order, instances, image=image)


def owners(instances: InstanceSet, relation: Relation, policy: FusionPolicy = BANET) -> Tensor:
    """The instance of every pixel, -1 where there is none."""
    panoptic = small_images.fused(instances, relation, policy)
    names = torch.tensor([-1, *(-1 if s.instance is None else s.instance for s in panoptic.segments)])
    return names[panoptic.ids.long()]


def areas(instances: InstanceSet, relation: Relation, policy: FusionPolicy = BANET) -> list[int]:
    return small_images.areas(small_images.fused(instances, relation, policy))


def random_masks(rng: np.random.Generator, n: int, size: tuple[int, int] = (9, 11)) -> Tensor:
    masks = np.zeros((n, *size), dtype=bool)
    for mask in masks:
        top, left = (int(rng.integers(0, side - 3)) for side in size)
        height, width = (int(rng.integers(3, side)) for side in size)
        mask[top : top + height, left : left + width] = True
        mask &= rng.random(size) < 0.95
    return torch.from_numpy(masks)
