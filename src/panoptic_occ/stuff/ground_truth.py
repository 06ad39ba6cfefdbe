"""An oracle base: the annotated stuff, so that only the order and the fusion are measured."""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor

from panoptic_occ.categories import Categories
from panoptic_occ.structures import VOID_LABEL, Batch
from panoptic_occ.stuff.base import StuffBranch


class GroundTruthStuff(StuffBranch):
    """The stuff classes of the annotated panoptic map."""

    def __init__(self, *, in_channels: int, categories: Categories) -> None:
        super().__init__()
        self.num_things = categories.num_things

    def losses(self, features: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """Nothing to train."""
        return {}

    def label_maps(self, features: dict[str, Tensor], batch: Batch) -> list[Int[Tensor, "h w"]]:
        """The annotated stuff label of every pixel."""
        labels = [target.semantic() for target in batch.targets]
        return [torch.where(label < self.num_things, VOID_LABEL, label) for label in labels]
