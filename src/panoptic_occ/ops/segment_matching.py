"""Which panoptic segment belongs to which annotated instance, on the CPU."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from jaxtyping import Int
from scipy.ndimage import find_objects
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from panoptic_occ.ops.segment_runs import positions, run_starts, unique_counts, unique_ids
from panoptic_occ.structures.masks import MaskCrops
from panoptic_occ.structures.panoptic_map import PanopticMap

MIN_SHARE = 0.5
"""Smallest share of a panoptic segment that an instance mask must cover to be its instance."""

TIE_BREAK = 1e-6
"""Weight of the IoU beside the share: COCO's segments are cut from the masks, so shares of exactly 1 are common."""

Ids = Int[np.ndarray, "h w"]
SegmentMatch = Literal["share", "box"]


def matched_segments(
    masks: MaskCrops, labels: Int[Tensor, " k"], panoptic: PanopticMap, match: SegmentMatch
) -> Int[Tensor, " k"]:
    """Id of the panoptic segment of every instance by the rule ``match``, 0 for an instance without one."""
    return match_by_share(masks, labels, panoptic) if match == "share" else match_by_box(masks, panoptic)


def match_by_box(masks: MaskCrops, panoptic: PanopticMap) -> Int[Tensor, " k"]:
    """The rule of RAP's released script: every non-crowd thing segment goes to the instance of the nearest box, by the
    Euclidean distance of (x, y, w, h), whatever its category; the first of equal ones.

    Two segments of one instance both go away, and a third one counts again, as there.
    """
    matched = torch.zeros(len(masks), dtype=torch.int64)
    values, places, _ = unique_ids(panoptic.ids.numpy())
    windows = dict(zip(values.tolist(), find_objects(places + 1), strict=True))
    segments = [s for s in panoptic.segments if s.isthing and not s.iscrowd and s.id in windows]
    for segment in segments if len(masks) else ():
        rows, columns = windows[segment.id]
        box = torch.tensor([rows.start, columns.start, rows.stop - rows.start, columns.stop - columns.start])
        nearest = (masks.windows.cpu() - box).square().sum(dim=1).argmin()
        matched[nearest] = 0 if matched[nearest] else segment.id
    return matched


def match_by_share(masks: MaskCrops, labels: Int[Tensor, " k"], panoptic: PanopticMap) -> Int[Tensor, " k"]:
    """Id of the panoptic segment of every instance, 0 for an instance without one.

    Candidates are non-crowd segments of the same category of which the mask covers at least half; among them the
    one-to-one assignment with the largest sum of covered shares ``|M & S| / |S|``, ties by IoU.
    """
    values, counts = unique_counts(panoptic.ids.numpy())
    column = {number: k for k, number in enumerate(values.tolist())}
    segments = [s for s in panoptic.segments if s.isthing and not s.iscrowd and s.id in column]
    matched = torch.zeros(len(masks), dtype=torch.int64)
    if not segments or not len(masks):
        return matched
    columns = [column[s.id] for s in segments]
    inside = _pixels_inside(masks, panoptic.ids.numpy(), values)
    inter, size = inside[:, columns], counts[columns]
    same = labels.numpy()[:, None] == np.array([s.label for s in segments])
    # below the threshold there is nothing to win: a sum of two such shares must not displace a good match
    candidate = same & (inter >= MIN_SHARE * size)
    union = inside.sum(axis=1)[:, None] + size - inter
    gain = np.where(candidate, inter / size + TIE_BREAK * inter / union, 0)
    for i, k in zip(*linear_sum_assignment(gain, maximize=True), strict=True):
        if candidate[i, k]:
            matched[i] = segments[k].id
    return matched


def _pixels_inside(masks: MaskCrops, ids: Ids, values: Int[np.ndarray, " u"]) -> Int[np.ndarray, "k u"]:
    """Pixels of every id of the map (``values``, all of them) under every mask."""
    under = [ids[window][crop.numpy()] for window, crop in masks]
    mask = np.repeat(np.arange(len(under)), [len(pixels) for pixels in under])
    pixels = np.concatenate(under)
    starts = run_starts(pixels, mask)
    place, _ = positions(pixels[starts], values)
    pair = mask[starts] * len(values) + place
    counts = np.bincount(pair, weights=np.diff(starts, append=pixels.size), minlength=len(masks) * len(values))
    return counts.astype(np.int64).reshape(len(masks), len(values))
