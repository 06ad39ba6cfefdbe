"""Hand-made detections in images whose pixels can be counted on paper, and what the fusion makes of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from panoptic_occ.fusion.engine import fuse
from panoptic_occ.fusion.policy import FusionPolicy
from panoptic_occ.occlusion.base import Context, OcclusionModel
from panoptic_occ.structures.instances import InstanceSet
from panoptic_occ.structures.masks import MaskCrops, PairStats
from panoptic_occ.structures.panoptic_map import PanopticMap
from panoptic_occ.structures.relation import Relation


def rectangle(rows: tuple[int, int], columns: tuple[int, int], size: tuple[int, int] = (4, 4)) -> Tensor:
    mask = torch.zeros(size, dtype=torch.bool)
    mask[slice(*rows), slice(*columns)] = True
    return mask


def strip(width: int, *pixels: Iterable[int]) -> Tensor:
    """Masks of one row, each from the columns of its pixels."""
    masks = torch.zeros((len(pixels), 1, width), dtype=torch.bool)
    for mask, columns in zip(masks, pixels, strict=True):
        mask[0, list(columns)] = True
    return masks


def detections(masks: Any, scores: Sequence[float] | None = None, labels: Sequence[int] | None = None) -> InstanceSet:
    """Instances with tight boxes, by default of falling scores (.9 to .7) and labels 0, 1, ..."""
    masks = MaskCrops.from_dense(torch.stack(masks) if isinstance(masks, list) else masks)
    n = len(masks)
    return InstanceSet(
        masks,
        masks.boxes,
        torch.linspace(0.9, 0.7, n) if scores is None else torch.tensor(scores, dtype=torch.float32),
        torch.arange(n) if labels is None else torch.tensor(labels, dtype=torch.int64),
    )


def ask(model: OcclusionModel, instances: InstanceSet, **context: Any) -> Relation:
    return model(instances, PairStats.of(instances.masks), Context(**context))


def fused(
    instances: InstanceSet, relation: Relation, policy: FusionPolicy, semantic: Tensor | None = None
) -> PanopticMap:
    return fuse(instances, PairStats.of(instances.masks), relation, semantic, policy)


def run(
    masks: Any,
    policy: FusionPolicy,
    above: Any = (),
    sig_ratio: float = 0.2,
    mode: Any = "either",
    scores: Sequence[float] | None = None,
    labels: Sequence[int] | None = None,
    value: Sequence[float] | None = None,
    semantic: Tensor | None = None,
    order: Sequence[int] | None = None,
    **fields: Any,
) -> PanopticMap:
    """Fuses with a relation given as (above, below) pairs, ``"all"``, or RAP values (smaller = closer)."""
    instances = detections(masks, scores, labels)
    n = len(instances)
    margin = torch.ones(n, n) if above == "all" else torch.full((n, n), -1.0)
    if value is not None:
        v = torch.tensor(value, dtype=torch.float32)
        margin, sig_ratio = v[None, :] - v[:, None], 0.0
    for i, j in above if above != "all" else ():
        margin[i, j] = 1.0
    turns = None if order is None else torch.tensor(order)
    valid = PairStats.of(instances.masks).significant(sig_ratio, mode)
    return fused(instances, Relation(margin, valid, order=turns, antisymmetric=False, **fields), policy, semantic)


def areas(panoptic: PanopticMap) -> list[int]:
    """Pixels of every instance, counted in the map; the records must agree."""
    counted = [0] * len(panoptic.records)
    for segment in panoptic.segments:
        if segment.instance is not None:
            counted[segment.instance] = int((panoptic.ids == segment.id).sum())
            assert segment.area == counted[segment.instance]
    assert [record.final for record in panoptic.records] == counted
    return counted


def statuses(panoptic: PanopticMap) -> list[str]:
    return [record.status for record in panoptic.records]


ABC = [rectangle((0, 4), (0, 3)), rectangle((1, 3), (1, 4)), rectangle((3, 4), (0, 4))]
