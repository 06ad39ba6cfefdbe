"""An oracle base: the annotated stuff, so that only the order and the fusion are measured."""

from __future__ import annotations

import torch

from panoptic_occ.structures.categories import Categories
from panoptic_occ.structures.sample import Batch, Features, Requires
from panoptic_occ.structures.semantic_map import VOID_LABEL, SemanticMap
from panoptic_occ.structures.target import Target
from panoptic_occ.stuff.base import StuffBranch


class GroundTruthStuff(StuffBranch):
    """The stuff classes of the annotated panoptic map."""

    def __init__(self, *, in_channels: int, categories: Categories) -> None:
        super().__init__()
        self.num_things = categories.num_things

    def semantic_maps(self, features: Features, batch: Batch, requires: Requires = frozenset()) -> list[SemanticMap]:
        """The annotated stuff label of every pixel; logits do not exist here."""
        return [annotated_stuff(target, self.num_things) for target in batch.targets]


def annotated_stuff(target: Target, num_things: int) -> SemanticMap:
    """The stuff of an annotated image."""
    labels = target.semantic().to(torch.int16)
    return SemanticMap(torch.where(labels < num_things, VOID_LABEL, labels))
