"""OANet's ranking module for a toy data set, and its loss on annotations."""

from __future__ import annotations

import torch
from torch import Tensor

from panoptic_occ.occlusion.base import TrainingExample
from panoptic_occ.occlusion.oanet import SpatialRanking
from panoptic_occ.structures import Target
from panoptic_occ.testing import toy_categories


def ranking(things: int = 3, **options: object) -> SpatialRanking:
    """A module whose bias is not zero either."""
    torch.manual_seed(0)
    model = SpatialRanking(in_channels=4, categories=toy_categories(things), **options)  # type: ignore[arg-type]
    torch.nn.init.normal_(model.conv.bias)
    return model.eval()


def example(target: Target) -> TrainingExample:
    return TrainingExample.of_annotations(target)


def loss_of(model: SpatialRanking, *targets: Target) -> Tensor:
    return model.loss([example(target) for target in targets], torch.Generator())["loss_occlusion"]
