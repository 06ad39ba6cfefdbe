"""Bins and reasons from dense masks and loops over segments."""

from __future__ import annotations

import torch

from panoptic_occ.structures.instances import InstanceSet
from panoptic_occ.structures.panoptic_map import PanopticMap, Segment
from panoptic_occ.structures.target import Target


def slow_bins(masks: torch.Tensor) -> list[tuple[str, str, str]]:
    """Names of the three bins of every dense mask."""
    named = []
    for i, mask in enumerate(masks):
        area = int(mask.sum())
        inter = [int((mask & other).sum()) for j, other in enumerate(masks) if j != i]
        others = [int(other.sum()) for j, other in enumerate(masks) if j != i]
        share = max([n / area for n in inter], default=0) if area else 0
        near = sum(n > 0 and (n / area >= 0.2 or n / b >= 0.2) for n, b in zip(inter, others, strict=True))
        overlap = "0" if share == 0 else "to .2" if share <= 0.2 else "to .5" if share <= 0.5 else "above .5"
        size = "small" if area < 36 else "medium" if area < 144 else "large"
        named.append((overlap, size, str(near) if near < 3 else "3 or more"))
    return named


def slow_reason(target: Target, instances: InstanceSet, prediction: PanopticMap, k: int, segment: Segment) -> str:
    """The reason for a false negative, from dense masks and the map."""
    full, dense = target.masks.dense(), instances.masks.dense()
    stands = []
    for d, mask in enumerate(dense):
        iou = [int((mask & m).sum()) / max(int((mask | m).sum()), 1) for m in full]
        if max(iou) >= 0.5 and iou.index(max(iou)) == k and prediction.records[d].status != "low_score":
            stands.append(d)
    area = {s.instance: int((prediction.ids == s.id).sum()) for s in prediction.segments}
    own = [d for d in stands if int(instances.labels[d]) == segment.label]
    if own:
        best = sorted(own, key=lambda d: (-area.get(d, 0), d))[0]
        return "inexact" if area.get(best, 0) == int(dense[best].sum()) else "killed"
    if stands:
        return "wrong_class"
    here = prediction.ids[target.panoptic.ids == segment.id]
    pixels = sorted(prediction.segments, key=lambda s: -int((here == s.id).sum()))
    if pixels and int((here == pixels[0].id).sum()) and pixels[0].label == segment.label:
        mask = prediction.ids == pixels[0].id
        for other in target.panoptic.segments:
            truth = target.panoptic.ids == other.id
            union = int((mask | truth).sum()) - int((mask & (target.panoptic.ids == 0)).sum())
            if other.label == segment.label and int((mask & truth).sum()) / union > 0.5:
                return "merged"
    return "missed"
