"""A small BANet: both branches, the exchange of their features, a batch and its pyramids."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from panoptic_occ.exchange.banet import FeatureAggregation
from panoptic_occ.exchange.base import Pyramids
from panoptic_occ.structures.batch import Batch
from panoptic_occ.stuff.base import StuffHead
from panoptic_occ.stuff.concat import ConcatHead
from panoptic_occ.stuff.ground_truth import GroundTruthStuff
from panoptic_occ.testing import toy_categories, toy_sample
from panoptic_occ.thing.mask_rcnn import MaskRCNN

CHANNELS = 8
SIZE = 64
CATEGORIES = toy_categories()


def branches() -> tuple[MaskRCNN, ConcatHead]:
    torch.manual_seed(0)
    thing = MaskRCNN(
        in_channels=CHANNELS,
        categories=CATEGORIES,
        anchor_scale=4,
        rpn_test=(100, 40),
        rois_per_image=16,
        mask_convs=1,
        max_detections=8,
    )
    stuff = ConcatHead(in_channels=CHANNELS, categories=CATEGORIES, hidden=4, widths=[2, 1])
    nn.init.normal_(stuff.predictor.weight)
    return thing, stuff


def exchange(stuff: StuffHead | GroundTruthStuff, **settings: Any) -> FeatureAggregation:
    torch.manual_seed(1)
    return FeatureAggregation(in_channels=CHANNELS, categories=CATEGORIES, stuff=stuff, **settings)


def batch_of(counts: tuple[int, ...], seed: int = 0) -> Batch:
    samples = tuple(toy_sample(n, seed + i, size=(SIZE, SIZE)) for i, n in enumerate(counts))
    return Batch(torch.zeros(len(samples), 3, SIZE, SIZE), ((SIZE, SIZE),) * len(samples), samples)


def pyramids(images: int = 2) -> Pyramids:
    generator = torch.Generator().manual_seed(2)
    levels = {
        name: torch.randn(images, CHANNELS, SIZE // 2**k, SIZE // 2**k, generator=generator)
        for k, name in zip(range(2, 7), ("0", "1", "2", "3", "pool"), strict=True)
    }
    return Pyramids.of(levels)
