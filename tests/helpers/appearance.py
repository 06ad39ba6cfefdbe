"""BANet's occlusion handling on small pictures: asked, and who owns which pixel then."""

import numpy as np
import torch

from panoptic_occ.fusion.engine import fuse
from panoptic_occ.fusion.policy import FusionPolicy
from panoptic_occ.occlusion.banet import AppearanceOrder
from panoptic_occ.occlusion.base import Context
from panoptic_occ.structures.instances import InstanceSet
from panoptic_occ.structures.masks import MaskCrops, PairStats
from panoptic_occ.testing import toy_categories

COMMON = {"in_channels": 4, "categories": toy_categories()}
BANET = FusionPolicy(conf_thr=0.6, max_occluded=0.5)
NO_DROP = FusionPolicy(conf_thr=0.6)


def boxes_of(masks):
    return MaskCrops.from_dense(masks).boxes


def detections(masks, scores=None, labels=None):
    n = len(masks)
    scores = torch.linspace(0.9, 0.7, n) if scores is None else torch.tensor(scores, dtype=torch.float32)
    labels = torch.arange(n) if labels is None else torch.tensor(labels)
    return InstanceSet(MaskCrops.from_dense(masks), boxes_of(masks), scores, labels)


def ask(image, instances, **options):
    stats = PairStats.of(instances.masks)
    return AppearanceOrder(**COMMON, **options)(instances, stats, Context(image=image))


def owners(instances, relation, policy=BANET):
    """The instance of every pixel, -1 where there is none."""
    panoptic = fuse(instances, PairStats.of(instances.masks), relation, None, policy)
    owner = torch.full(panoptic.ids.shape, -1)
    for segment in panoptic.segments:
        owner[panoptic.ids == segment.id] = segment.instance
    return owner


def areas(instances, relation, policy=BANET):
    owner = owners(instances, relation, policy)
    return [int((owner == i).sum()) for i in range(len(instances))]


def strip(width, *pixels):
    masks = torch.zeros((len(pixels), 1, width), dtype=torch.bool)
    for mask, chosen in zip(masks, pixels, strict=True):
        mask[0, list(chosen)] = True
    return masks


def random_masks(rng, n, size=(9, 11)):
    masks = np.zeros((n, *size), dtype=bool)
    for mask in masks:
        top, left = (int(rng.integers(0, side - 3)) for side in size)
        height, width = (int(rng.integers(3, side)) for side in size)
        mask[top : top + height, left : left + width] = True
        mask &= rng.random(size) < 0.95
    return torch.from_numpy(masks)
