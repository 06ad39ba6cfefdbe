"""Inputs of the benchmark, drawn from a seed: detections, semantic logits and panoptic maps shaped like COCO's.

Calibration: 100 boxes cover a 480x640 image about 5 times and each meets about 29 others; 40 of them score 0.5 or
more.  A semantic map has 5 to 10 % of pixels between different winners.  A panoptic map of 480x640 has about
11 segments, 5,300 runs of equal pixels and 5.6 % VOID.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from panoptic_occ.structures.categories import Categories, Category
from panoptic_occ.structures.instances import InstanceSet
from panoptic_occ.structures.masks import MaskCrops
from panoptic_occ.structures.panoptic_map import PanopticMap, Segment
from panoptic_occ.thing.paste import paste_masks

Size = tuple[int, int]
COCO_LIKE: Size = (480, 640)
LARGE: Size = (800, 1333)
NUM_THINGS, NUM_STUFF = 80, 53
MASK_SIDE = 28
CONFIDENT = 0.4  # share of the detections that score 0.5 or more
VOID_SHARE = 0.056


def categories() -> Categories:
    """80 things and 53 stuff classes, as COCO has."""
    count = NUM_THINGS + NUM_STUFF
    return Categories(tuple(Category(k + 1, f"class {k}", k < NUM_THINGS, (k, k, k)) for k in range(count)))


@dataclass(frozen=True, eq=False)
class Detections:
    """What a network finds in one image: boxes xyxy, soft masks inside them, scores (falling), contiguous labels."""

    boxes: Float[Tensor, "n 4"]
    soft: Float[Tensor, "n 28 28"]
    scores: Float[Tensor, " n"]
    labels: Int[Tensor, " n"]
    size: Size

    def __len__(self) -> int:
        return len(self.scores)

    def above(self, conf_thr: float) -> Detections:
        """Those with ``score >= conf_thr``."""
        n = int((self.scores >= conf_thr).sum())
        return Detections(self.boxes[:n], self.soft[:n], self.scores[:n], self.labels[:n], self.size)

    def instances(self) -> InstanceSet:
        """The detections with their masks as crops."""
        masks = paste_masks(self.soft, self.boxes, self.size)
        return InstanceSet(masks, self.boxes, self.scores, self.labels, self.soft)


def detections(n: int, size: Size, seed: int = 0) -> Detections:
    """``n`` detections; their boxes crowd in the middle of the image and overlap as 100 of COCO do."""
    rng = np.random.default_rng([seed, n])
    height, width = size
    side = np.exp(rng.normal(-1.92, 0.75, n)).clip(0.02, 0.95)  # square root of the share of the image
    aspect = np.exp(rng.normal(0, 0.35, n))
    extent = np.stack([side * aspect, side / aspect], axis=1).clip(0.02, 0.98)
    centre = rng.normal(0.5, 0.2, (n, 2)).clip(extent / 2, 1 - extent / 2)
    corners = np.concatenate([centre - extent / 2, centre + extent / 2], axis=1) * np.array([width, height] * 2)
    confident = round(CONFIDENT * n)
    scores = np.concatenate([rng.uniform(0.5, 1, confident), rng.uniform(0.05, 0.5, n - confident)])
    return Detections(
        torch.from_numpy(corners).float(),
        torch.stack([blob(rng) for _ in range(n)]) if n else torch.zeros(0, MASK_SIDE, MASK_SIDE),
        torch.from_numpy(np.sort(scores)[::-1].copy()).float(),
        torch.from_numpy(rng.integers(0, NUM_THINGS, n)),
        size,
    )


def blob(rng: np.random.Generator) -> Float[Tensor, "28 28"]:
    """Probabilities of a lobed shape that fills its box, softer at the border than inside."""
    steps = (np.arange(MASK_SIDE) + 0.5) / MASK_SIDE * 2 - 1
    y, x = np.meshgrid(steps, steps, indexing="ij")
    angle, radius = np.arctan2(y, x), np.hypot(y, x)
    order = np.arange(2, 6)[:, None, None]
    phase, strength = rng.uniform(0, 2 * np.pi, order.shape), rng.uniform(0, 0.45, order.shape) / order
    outline = 0.9 + (strength * np.cos(order * angle + phase)).sum(axis=0)
    logits = (outline - radius) * rng.uniform(6, 14) + rng.normal(0, 0.3, radius.shape)
    return torch.from_numpy(1 / (1 + np.exp(-logits))).float()


def fresh(masks: MaskCrops) -> MaskCrops:
    """The same masks without anything that was kept of them."""
    return MaskCrops(masks.pixels, masks.windows, masks.size)


def semantic_logits(size: Size, seed: int = 0, channels: int = 1 + NUM_STUFF) -> Float[Tensor, "c h4 w4"]:
    """Logits at stride 4 for an image of ``size`` padded to a multiple of 32; regions have rough borders."""
    rng = np.random.default_rng([seed, channels])
    height, width = (-(-edge // 32) * 8 for edge in size)
    common = torch.from_numpy(rng.normal(0, 3, (channels, 1, 1))).float()  # a few classes fill most of an image
    coarse, fine = (smooth(rng, channels, grid, (height, width)) for grid in ((4, 5), (24, 32)))
    return common + coarse * 4 + fine * 0.45


def smooth(rng: np.random.Generator, channels: int, grid: Size, size: Size) -> Float[Tensor, "c h w"]:
    """Random fields without details smaller than a cell of ``grid``."""
    coarse = torch.from_numpy(rng.normal(0, 1, (1, channels, *grid))).float()
    return F.interpolate(coarse, size=size, mode="bicubic", align_corners=False)[0]


def map_pair(size: Size, seed: int = 0, plain: bool = False) -> tuple[PanopticMap, PanopticMap]:
    """A panoptic map and an imperfect prediction of it; ``plain``: without VOID and crowds."""
    rng = np.random.default_rng([seed, plain])
    stuff, things = 5, 7
    labels = rng.choice(np.arange(NUM_THINGS, NUM_THINGS + NUM_STUFF), stuff, replace=False)
    fields = smooth(rng, stuff, (4, 5), size) + smooth(rng, stuff, (30, 40), size) * 0.12
    annotated = detections(things, size, int(rng.integers(1 << 30)))
    void = smooth(rng, 1, (5, 6), size)[0]
    blurred = fields + smooth(rng, stuff, (8, 10), size) * 0.15
    sides = (annotated.boxes[:, 2:] - annotated.boxes[:, :2]).repeat(1, 2)
    boxes = annotated.boxes + torch.from_numpy(rng.normal(0, 0.02, (things, 4))).float() * sides
    share = 0.0 if plain else VOID_SHARE
    ids = rng.choice(np.arange(1, 1 << 24), stuff + things, replace=False)  # as the colours of the annotations
    target = paint(fields, annotated, labels, ids, void, share, None if plain else things - 1)
    shifted = Detections(boxes[1:], annotated.soft[1:], annotated.scores[1:], annotated.labels[1:], size)
    return target, paint(blurred, shifted, labels, np.arange(1, stuff + things), -void, share / 2)


def paint(
    fields: Float[Tensor, "s h w"],
    things: Detections,
    stuff_labels: np.ndarray,
    ids: np.ndarray,
    void: Float[Tensor, "h w"],
    void_share: float,
    crowd: int | None = None,
) -> PanopticMap:
    """Stuff by the largest field, things painted over it, VOID where ``void`` is largest; ``ids`` of stuff and things,
    of which ``crowd`` is a crowd."""
    stuff = len(stuff_labels)
    index = fields.argmax(dim=0) + 1
    for k, (window, crop) in enumerate(things.instances().masks):
        index[window][crop] = stuff + k + 1
    if void_share:
        index[void >= void.flatten().kthvalue(round((1 - void_share) * void.numel())).values] = 0
    areas = torch.bincount(index.flatten(), minlength=stuff + len(things) + 1)[1:].tolist()
    labels = [*stuff_labels.tolist(), *things.labels.tolist()]
    segments = tuple(
        Segment(int(ids[k]), labels[k], k >= stuff, area, iscrowd=crowd is not None and k == stuff + crowd)
        for k, area in enumerate(areas)
        if area
    )
    table = torch.from_numpy(np.concatenate([[0], ids[: stuff + len(things)]])).to(torch.int32)
    return PanopticMap(table[index], segments)


def panoptic_entry(image_id: int, panoptic: PanopticMap, file_name: str) -> dict[str, Any]:
    """What the official annotation file says about a map with the labels of ``categories``."""
    segments = [
        {"id": s.id, "category_id": s.label + 1, "area": s.area, "iscrowd": int(s.iscrowd)} for s in panoptic.segments
    ]
    return {"image_id": image_id, "file_name": file_name, "segments_info": segments}
