"""Stuff in a panoptic map: what the instances left free, one segment per class (Panoptic FPN, Kirillov et al. 2019)."""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor

from panoptic_occ.structures import Segment


def fill_stuff(
    ids: Int[Tensor, "h w"], semantic: Int[Tensor, "h w"], stuff_area: int, first_id: int
) -> tuple[Int[Tensor, "h w"], tuple[Segment, ...]]:
    """Gives the free pixels (id 0) of every large enough stuff class one id, counted up from ``first_id``.

    ``semantic`` holds the contiguous stuff label of every pixel, negative where there is no stuff.  A class with fewer
    than ``stuff_area`` free pixels stays void; exactly ``stuff_area`` is filled.  Classes go by ascending label.
    """
    key = torch.where(ids == 0, semantic.long() + 1, 0).clamp(min=0)  # 0: taken or no stuff; otherwise label + 1
    counts = torch.bincount(key.flatten())[1:].tolist()
    segments: list[Segment] = []
    id_of_key = ids.new_zeros(len(counts) + 1)
    for label, area in enumerate(counts):
        if area >= max(stuff_area, 1):
            segment_id = first_id + len(segments)
            id_of_key[label + 1] = segment_id
            segments.append(Segment(segment_id, label, isthing=False, area=area))
    return ids + id_of_key[key], tuple(segments)
