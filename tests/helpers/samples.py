"""Samples with instances, stuff and void, and their comparison."""

from __future__ import annotations

from dataclasses import fields, is_dataclass

import numpy as np
import torch
from torch import Tensor

from panoptic_occ.structures.masks import MaskCrops
from panoptic_occ.structures.panoptic_map import PanopticMap, Segment
from panoptic_occ.structures.relation import GroundTruthRelation
from panoptic_occ.structures.sample import Sample
from panoptic_occ.structures.target import Target


def make_sample(size: tuple[int, int] = (37, 53), n: int = 5, seed: int = 0) -> Sample:
    """Overlapping random rectangles and blobs; a later instance hides the earlier ones; id 100 + k, stuff id 7, void 0.

    The red channel of the image is the panoptic id, so that image and map can be compared after a flip or crop.
    """
    rng = np.random.default_rng(seed)
    height, width = size
    masks = np.zeros((n, height, width), dtype=bool)
    for mask in masks:
        top, left = rng.integers(0, height - 3), rng.integers(0, width - 3)
        bottom, right = rng.integers(top + 2, height + 1), rng.integers(left + 2, width + 1)
        mask[top:bottom, left:right] = rng.random((bottom - top, right - left)) < 0.8
        mask[top, left] = True
    ids = np.zeros(size, dtype=np.int64)
    ids[height // 2 :] = 7
    for k, mask in enumerate(masks):
        ids[mask] = 100 + k
    owned = ids == 100 + np.arange(n)[:, None, None]
    inter, own = (torch.from_numpy(np.einsum("ihw,jhw->ij", m.astype(int), masks.astype(int))) for m in (masks, owned))
    pan_area = torch.from_numpy(owned.sum(axis=(1, 2)))
    segments = [Segment(100 + k, k % 3, True, int(pan_area[k])) for k in range(n) if pan_area[k] > 0]
    segments.append(Segment(7, 3, False, int((ids == 7).sum())))
    crops = MaskCrops.from_dense(torch.from_numpy(masks))
    target = Target(
        boxes=crops.boxes,
        labels=torch.arange(n) % 3,
        masks=crops,
        panoptic=PanopticMap(torch.from_numpy(ids), tuple(segments)),
        relation=GroundTruthRelation(crops.area, pan_area, inter, own),
        instance_ids=torch.arange(n) + 1000,
    )
    image = np.stack([ids, rng.integers(0, 256, size), rng.integers(0, 256, size)], axis=-1).astype(np.uint8)
    return Sample(torch.from_numpy(image).permute(2, 0, 1), seed, f"{seed}.png", size, target)


def assert_same(first: object, second: object, path: str = "") -> None:
    """Equal down to dtype and every bit, whatever the nesting; ``path`` names the place of a difference."""
    if isinstance(first, Tensor):
        assert isinstance(second, Tensor) and first.dtype == second.dtype and torch.equal(first, second), path
    elif is_dataclass(first):
        assert type(first) is type(second), path
        for field in fields(first):
            assert_same(getattr(first, field.name), getattr(second, field.name), f"{path}.{field.name}")
    else:
        assert first == second, path
