"""Samples with instances, stuff and void, and their comparison."""

from __future__ import annotations

import numpy as np
import torch

from panoptic_occ.structures.masks import MaskCrops, PairStats
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
    dense = torch.from_numpy(masks)
    inter = PairStats.of(MaskCrops.from_dense(dense)).inter
    own = torch.zeros_like(inter)
    for i in range(n):
        for j in range(n):
            own[i, j] = int((masks[i] & masks[j] & (ids == 100 + i)).sum())
    pan_area = torch.tensor([int((ids == 100 + k).sum()) for k in range(n)])
    segments = [Segment(100 + k, k % 3, True, int(pan_area[k]), instance=k) for k in range(n) if pan_area[k] > 0]
    segments.append(Segment(7, 3, False, int((ids == 7).sum())))
    crops = MaskCrops.from_dense(dense)
    target = Target(
        boxes=crops.boxes,
        labels=torch.arange(n) % 3,
        masks=crops,
        panoptic=PanopticMap(torch.from_numpy(ids), tuple(segments)),
        relation=GroundTruthRelation(crops.area, pan_area, inter, own),
        instance_ids=torch.arange(n) + 1000,
    )
    image = np.stack([ids, rng.integers(0, 256, size), rng.integers(0, 256, size)]).astype(np.uint8)
    return Sample(torch.from_numpy(image), 1, "1.png", size, target)


def same(a: Sample, b: Sample) -> bool:
    assert a.target is not None and b.target is not None
    pairs = [
        (a.image, b.image),
        (a.target.boxes, b.target.boxes),
        (a.target.labels, b.target.labels),
        (a.target.masks.dense(), b.target.masks.dense()),
        (a.target.panoptic.ids, b.target.panoptic.ids),
        (a.target.instance_ids, b.target.instance_ids),
        *((getattr(a.target.relation, f), getattr(b.target.relation, f)) for f in ("area", "pan_area", "inter", "own")),
    ]
    equal = all(x.shape == y.shape and torch.equal(x, y) for x, y in pairs)
    return equal and a.target.panoptic.segments == b.target.panoptic.segments
