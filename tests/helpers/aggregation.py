"""A small BANet: both branches, the exchange of their features, a batch and its pyramids; the inlay with dense maps."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from panoptic_occ.exchange.banet import FeatureAggregation
from panoptic_occ.exchange.base import Exchange, Inputs, Pyramids
from panoptic_occ.structures.sample import Batch
from panoptic_occ.stuff.base import StuffHead
from panoptic_occ.stuff.concat import ConcatHead
from panoptic_occ.stuff.ground_truth import GroundTruthStuff
from panoptic_occ.testing import toy_categories, toy_sample
from panoptic_occ.thing.base import ThingBranch
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


def plain(stuff: StuffHead) -> Exchange:
    return Exchange(in_channels=CHANNELS, categories=CATEGORIES, stuff=stuff)


def inputs(thing: ThingBranch, stuff: StuffHead, counts: tuple[int, ...] = (2, 3)) -> Inputs:
    """Both branches on images of so many instances."""
    return Inputs(thing, stuff, pyramids(len(counts)), batch_of(counts))


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


def dense_inlay(
    crops: Float[Tensor, "n c m m"],
    boxes: Float[Tensor, "n 5"],
    size: tuple[int, int, int],
    stride: float,
    weights: Float[Tensor, "n m m"] | None = None,
) -> Float[Tensor, "b c h w"]:
    """The definition with dense maps: every crop stretched over the map, cut to its box, averaged."""
    images, height, width = size
    total = torch.zeros(images, crops.shape[1], height, width, dtype=crops.dtype)
    count = torch.zeros(images, height, width, dtype=crops.dtype)
    weights = torch.ones_like(crops[:, 0]) if weights is None else weights
    for crop, weight, (image, *box) in zip(crops, weights, boxes.tolist(), strict=True):
        x0, y0, x1, y1 = (edge / stride for edge in box)
        x, y = torch.arange(width) + 0.5, torch.arange(height) + 0.5
        gy, gx = torch.meshgrid(2 * (y - y0) / (y1 - y0) - 1, 2 * (x - x0) / (x1 - x0) - 1, indexing="ij")
        grid = torch.stack([gx, gy], dim=-1)[None].to(crops.dtype)
        value, share = (
            F.grid_sample(part[None], grid, padding_mode="border", align_corners=False)[0]
            for part in (crop * weight, weight[None])
        )
        inside = ((y >= y0) & (y < y1))[:, None] & ((x >= x0) & (x < x1))
        total[int(image)] += value * inside
        count[int(image)] += share[0] * inside
    return total / count.clamp(min=1)[:, None]
