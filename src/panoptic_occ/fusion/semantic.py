"""Stuff in a panoptic map: what the instances left free, one segment per class (Panoptic FPN, Kirillov et al. 2019)."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Int
from torch import Tensor

from panoptic_occ.fusion.components import components
from panoptic_occ.structures import VOID_LABEL, Segment

StuffRule = Literal["class", "component"]
STUFF_RULES = ("class", "component")


def fill_stuff(
    ids: Int[Tensor, "h w"], semantic: Int[Tensor, "h w"], stuff_area: int, first_id: int, rule: StuffRule = "class"
) -> tuple[Int[Tensor, "h w"], tuple[Segment, ...]]:
    """Gives the free pixels (id 0) of every large enough stuff class one id, counted up from ``first_id``.

    ``semantic`` holds the contiguous stuff label of every pixel, negative where there is no stuff.  A class with fewer
    than ``stuff_area`` free pixels stays void; exactly ``stuff_area`` is filled.  Classes go by ascending label.
    With ``rule="component"`` every 8-connected component of the free pixels of a class must be that large, else it
    stays void (OANet, Liu et al. 2019, 4.2); what is left of a class is still one segment.
    """
    if rule == "component":
        semantic = _without_fragments(torch.where(ids == 0, semantic, VOID_LABEL), stuff_area)
    key = torch.where(ids == 0, semantic.long() + 1, 0).clamp(min=0)  # 0: taken or no stuff; otherwise label + 1
    counts = torch.bincount(key.flatten())[1:].tolist()
    segments: list[Segment] = []
    id_of_key = ids.new_zeros(len(counts) + 1)
    for label, area in enumerate(counts):
        if area >= max(stuff_area, 1):
            segment_id = first_id + len(segments)
            id_of_key[label + 1] = segment_id
            segments.append(Segment(segment_id, label, isthing=False, area=area))
    return ids + id_of_key.index_select(0, key.flatten()).view_as(key), tuple(segments)


def _without_fragments(labels: Int[Tensor, "h w"], smallest: int) -> Int[Tensor, "h w"]:
    """``labels`` without the components of fewer than ``smallest`` pixels."""
    key = components(labels).numbers + 1  # 0: no component
    small = torch.bincount(key.flatten()) < smallest
    return labels.masked_fill(small[key], VOID_LABEL)
