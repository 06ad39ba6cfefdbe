"""Ground-truth occlusion relation from overlapping instance masks and a panoptic map (OCFusion, Lazarow et al., CVPR
2020, section 3.2): of two overlapping instances that one lies on top which owns more of the common pixels in the
panoptic annotation.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from panoptic_occ.ops.segment_runs import unique_counts
from panoptic_occ.structures.masks import MaskCrops, PairStats, intersections
from panoptic_occ.structures.relation import GroundTruthRelation


def ground_truth_relation(
    masks: MaskCrops, segment_ids: Int[Tensor, " k"], panoptic_ids: Int[Tensor, "h w"]
) -> GroundTruthRelation:
    """Raw counts among the instances of an image; ``segment_ids[i]`` is the panoptic id of instance i, 0 without one.

    Exact integers, counted on the crops, on the CPU.  ``visible[i, i]`` is the part of mask i that its segment covers.

    >>> import torch
    >>> from panoptic_occ import MaskCrops, ground_truth_relation
    >>> masks = MaskCrops.from_dense(torch.tensor([[[True, True, True, False]], [[False, False, True, True]]]))
    >>> counts = ground_truth_relation(masks, torch.tensor([5, 6]), torch.tensor([[5, 5, 6, 6]]))
    >>> counts.visible.tolist()  # the second instance owns the common pixel
    [[2, 0], [1, 2]]
    """
    stats = PairStats.of(masks)
    ids = panoptic_ids.numpy()
    values, counts = unique_counts(ids)
    size = dict(zip(values.tolist(), counts.tolist(), strict=True))
    segments: list[int] = segment_ids.tolist()
    pan_area = torch.tensor([size.get(s, 0) if s else 0 for s in segments], dtype=torch.int64)
    # no pixel has the id -1: an instance without a segment owns none
    parts = [(ids[window] == (s or -1)) & crop.numpy() for (window, crop), s in zip(masks, segments, strict=True)]
    pixels = torch.from_numpy(np.concatenate([np.zeros(0, dtype=bool), *(part.reshape(-1) for part in parts)]))
    visible = intersections(MaskCrops(pixels, masks.windows, masks.size), masks, where=stats.inter > 0)
    return GroundTruthRelation(stats.area, pan_area, stats.inter, visible)
