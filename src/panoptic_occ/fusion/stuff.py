"""Stuff in a panoptic map: what the instances left free, one segment per class (Panoptic FPN, Kirillov et al. 2019)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from panoptic_occ.ops.components import components
from panoptic_occ.ops.segment_runs import run_starts
from panoptic_occ.structures.panoptic_map import Segment
from panoptic_occ.structures.semantic_map import VOID_LABEL

StuffRule = Literal["class", "component"]
StuffSource = Int[Tensor, "h w"] | Callable[[Int[Tensor, "h w"]], Int[Tensor, "h w"]]
"""Stuff labels, or a function that gives them for the map of the things."""


def fill_stuff(
    ids: Int[Tensor, "h w"],
    semantic: Int[Tensor, "h w"],
    stuff_area: float,
    first_id: int,
    rule: StuffRule = "class",
    check: Callable[[Int[np.ndarray, " k"]], None] | None = None,
) -> tuple[Int[Tensor, "h w"], tuple[Segment, ...]]:
    """Gives the free pixels (id 0) of every large enough stuff class one id, counted up from ``first_id``.

    ``semantic``: contiguous stuff label of every pixel, negative where there is none; classes go by ascending label.
    A class with fewer than ``stuff_area`` free pixels stays void, with ``rule="component"`` every 8-connected component
    of fewer (OANet, Liu et al. 2019, 4.2); below 1 it is a share of the image.  The new map is int32, on the device of
    ``ids``.  ``check`` sees every label of ``semantic`` first.
    """
    taken, labels = ids.cpu().numpy().ravel(), semantic.cpu().numpy().ravel()
    labels = labels.astype(np.int64) if labels.dtype.kind == "u" else labels  # which VOID_LABEL fits into
    unit = max(ids.numel(), 1) if stuff_area < 1 else 1  # quotients are compared, as in the engine
    # a map has a hundred times fewer runs of equal pixels than pixels, so only the runs are counted and looked up
    starts = run_starts(taken, labels)
    label_of_run = labels[starts]
    if check is not None:
        check(label_of_run)
    if rule == "component":
        free = np.where(taken == 0, labels, VOID_LABEL).reshape(ids.shape)
        parts = components(torch.from_numpy(free))
        labels = np.where(parts.spread(parts.areas / unit >= stuff_area), free, VOID_LABEL).ravel()
        starts = run_starts(taken, labels)
        label_of_run = labels[starts]
    lengths = np.diff(starts, append=taken.size)
    owner, label = taken[starts].astype(np.int32), label_of_run.astype(np.int64)
    key = np.where((owner == 0) & (label >= 0), label + 1, 0)  # 0: taken or no stuff
    areas = np.bincount(key, weights=lengths).astype(np.int64)
    areas[:1] = 0
    large = np.flatnonzero((areas > 0) & (areas / unit >= stuff_area))
    id_of_key = np.zeros(len(areas), dtype=np.int32)
    id_of_key[large] = np.arange(first_id, first_id + len(large))
    segments = tuple(
        Segment(segment_id, k - 1, isthing=False, area=area)
        for segment_id, k, area in zip(id_of_key[large].tolist(), large.tolist(), areas[large].tolist(), strict=True)
    )
    filled = np.repeat(owner + id_of_key[key], lengths).reshape(ids.shape)
    return torch.from_numpy(filled).to(ids.device), segments
