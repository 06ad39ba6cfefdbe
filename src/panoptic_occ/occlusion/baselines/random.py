"""Random order: half of the pairs right, as by tossing a coin."""

from __future__ import annotations

import hashlib
from typing import Any, ClassVar

import torch

from panoptic_occ.common.kinds import Scope
from panoptic_occ.occlusion.base import NO_CONTEXT, Context, OcclusionModel
from panoptic_occ.structures.instances import InstanceSet
from panoptic_occ.structures.masks import MaskCrops, PairStats
from panoptic_occ.structures.relation import Relation


class RandomOrder(OcclusionModel):
    """Every instance gets a random depth, a hash of ``seed`` and of its mask.

    The hash reads exact integers, whatever the crop, so that the order is the same in every process, on every device,
    in any order of images or instances.  Masks equal in all of them keep the order of the scores.
    """

    scope: ClassVar[Scope] = Scope.RESULT

    def __init__(self, *, seed: int = 0, **common: Any) -> None:
        super().__init__(**common)
        self.seed = seed

    def forward(self, instances: InstanceSet, stats: PairStats, context: Context = NO_CONTEXT) -> Relation:
        """Margin: difference of two depths, each uniform in [0, 1)."""
        depths = [_uniform(self.seed, *numbers) for numbers in _fingerprints(instances.masks)]
        value = torch.tensor(depths, device=stats.inter.device)
        return Relation(value[:, None] - value[None, :], self.pairs(instances, stats), value=value, transitive=True)


def _fingerprints(masks: MaskCrops) -> list[tuple[int, ...]]:
    """Pixel count, sum of the row numbers and sum of the column numbers of every mask."""
    numbers = []
    for (ys, xs), crop in masks:
        rows = torch.arange(ys.start, ys.stop, device=crop.device)
        columns = torch.arange(xs.start, xs.stop, device=crop.device)
        sums = torch.stack([crop.sum(), (crop.sum(dim=1) * rows).sum(), (crop.sum(dim=0) * columns).sum()])
        numbers.append(tuple(sums.tolist()))
    return numbers


def _uniform(*numbers: int) -> float:
    """A number in [0, 1) with 24 random bits (exact in float32), the same everywhere for the same integers."""
    digest = hashlib.blake2b(repr(numbers).encode(), digest_size=3).digest()
    return int.from_bytes(digest, "big") / 2**24
