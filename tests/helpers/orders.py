"""Detections, relations and annotated orders from lists of pairs (front, behind)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from panoptic_occ.structures.instances import InstanceSet
from panoptic_occ.structures.masks import MaskCrops
from panoptic_occ.structures.relation import GroundTruthRelation, Relation

Pairs = Iterable[tuple[int, int]]


def detections(
    n: int, scores: Sequence[float] | None = None, masks: Tensor | None = None, labels: Sequence[int] | None = None
) -> InstanceSet:
    """``n`` detections, by falling score and of one class unless given."""
    ranked = torch.linspace(0.9, 0.5, n) if scores is None else torch.tensor(scores)
    dense = torch.ones(n, 2, 2, dtype=torch.bool) if masks is None else masks
    of_class = torch.zeros(n, dtype=torch.int64) if labels is None else torch.tensor(labels)
    return InstanceSet(MaskCrops.from_dense(dense), torch.zeros(n, 4), ranked, of_class)


def relation(n: int, front: Pairs = (), **more: Any) -> Relation:
    """An antisymmetric relation, silent about all other pairs."""
    margin = torch.zeros(n, n)
    for i, j in front:
        margin[i, j], margin[j, i] = 1.0, -1.0
    return Relation(margin, margin != 0, **more)


def truth(n: int, front: Pairs, inter: int = 5) -> GroundTruthRelation:
    """Annotations of 10 px; the pairs share ``inter`` px, which the front one owns."""
    common, own = torch.zeros((2, n, n), dtype=torch.int64)
    for i, j in front:
        common[i, j] = common[j, i] = own[i, j] = inter
    areas = torch.full((n,), 10)
    return GroundTruthRelation(areas, areas, common, own)


def integers(generator: torch.Generator, high: int, *shape: int) -> Tensor:
    return torch.randint(high, shape, generator=generator)
