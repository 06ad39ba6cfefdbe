"""Hand-made instances in images whose pixels can be counted on paper, and what the fusion makes of them."""

import torch

from panoptic_occ.fusion.engine import fuse
from panoptic_occ.structures.instances import InstanceSet
from panoptic_occ.structures.masks import MaskCrops, PairStats
from panoptic_occ.structures.relation import Relation


def rectangle(rows, columns, size=(4, 4)):
    mask = torch.zeros(size, dtype=torch.bool)
    mask[slice(*rows), slice(*columns)] = True
    return mask


def detections(masks, scores=None, labels=None):
    masks = torch.stack(masks) if isinstance(masks, list) else masks
    n = len(masks)
    return InstanceSet(
        masks=MaskCrops.from_dense(masks),
        boxes=torch.zeros(n, 4),
        scores=torch.tensor(scores if scores is not None else [0.9 - 0.1 * k for k in range(n)]),
        labels=torch.tensor(labels if labels is not None else list(range(n)), dtype=torch.int64),
    )


def run(
    masks,
    policy,
    above=(),
    sig_ratio=0.2,
    mode="either",
    scores=None,
    labels=None,
    value=None,
    semantic=None,
    order=None,
):
    """Fuses with a relation given as (above, below) pairs, ``"all"``, or RAP values (smaller = closer)."""
    instances = detections(masks, scores, labels)
    stats = PairStats.of(instances.masks)
    n = len(instances)
    margin = torch.full((n, n), -1.0)
    if value is not None:
        v = torch.tensor(value, dtype=torch.float32)
        margin, sig_ratio = v[None, :] - v[:, None], 0.0
    elif above == "all":
        margin = torch.ones(n, n)
    else:
        for i, j in above:
            margin[i, j] = 1.0
    turns = None if order is None else torch.tensor(order)
    relation = Relation(margin, stats.significant(sig_ratio, mode), order=turns, antisymmetric=False)
    return fuse(instances, stats, relation, semantic, policy)


def areas(panoptic):
    """Pixels of every instance, counted in the map; the records must agree."""
    counted = [0] * len(panoptic.records)
    for segment in panoptic.segments:
        if segment.isthing:
            counted[segment.instance] = int((panoptic.ids == segment.id).sum())
            assert segment.area == counted[segment.instance]
    assert [record.final for record in panoptic.records] == counted
    return counted


def statuses(panoptic):
    return [record.status for record in panoptic.records]


ABC = [rectangle((0, 4), (0, 3)), rectangle((1, 3), (1, 4)), rectangle((3, 4), (0, 4))]
