"""Instances cut from a panoptic map: masks that never overlap (Liu et al., CVPR 2019, Table 3, "pano-instance GT")."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import numpy as np
import torch
from jaxtyping import Int
from scipy.ndimage import find_objects

from panoptic_occ.data.coco.annotations import ImageRecord
from panoptic_occ.data.coco.reader import Instances
from panoptic_occ.ops.segment_runs import unique_ids
from panoptic_occ.structures.categories import Categories
from panoptic_occ.structures.masks import MaskCrops
from panoptic_occ.structures.panoptic_map import PanopticMap
from panoptic_occ.structures.relation import GroundTruthRelation

InstanceTruth = Literal["coco", "panoptic"]


def panoptic_instances(panoptic: PanopticMap) -> Instances:
    """The non-crowd thing segments as instances in the order of the segments; their ids are the segments' ids."""
    values, index, _ = unique_ids(panoptic.ids.numpy())
    windows = dict(zip(values.tolist(), enumerate(find_objects(index + 1)), strict=True))
    segments = [s for s in panoptic.segments if s.isthing and not s.iscrowd and s.id in windows]
    crops, corners = [], []
    for segment in segments:
        k, (ys, xs) = windows[segment.id]
        crops.append(torch.from_numpy(index[ys, xs] == k))
        corners.append((ys.start, xs.start))
    height, width = panoptic.ids.shape
    return Instances(
        MaskCrops.from_crops(crops, corners, (height, width)),
        torch.tensor([s.label for s in segments], dtype=torch.int64),
        torch.tensor([s.id for s in segments], dtype=torch.int64),
    )


def disjoint_relation(instances: Instances) -> GroundTruthRelation:
    """The relation among instances that share no pixel: every mask is its own segment, and no pair meets."""
    area = instances.masks.area
    return GroundTruthRelation(area, area, torch.diag(area), torch.diag(area))


def thing_segments(records: Iterable[ImageRecord], categories: Categories) -> Int[np.ndarray, " n"]:
    """Number of non-crowd thing segments in the panoptic annotation of every image."""
    things = {c.id for c in categories.items if c.isthing}
    return np.array([sum(s.category_id in things and not s.iscrowd for s in record.segments) for record in records])
