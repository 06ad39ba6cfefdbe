"""Detections and maps whose quality is broken down, and its bins and reasons from dense masks and loops."""

from __future__ import annotations

import torch

from helpers.orders import detections, relation
from panoptic_occ.fusion.engine import fuse
from panoptic_occ.fusion.policy import FusionPolicy
from panoptic_occ.metrics.breakdown import Binning
from panoptic_occ.structures.instances import InstanceSet
from panoptic_occ.structures.masks import PairStats
from panoptic_occ.structures.panoptic_map import PanopticMap, Segment
from panoptic_occ.structures.relation import Relation
from panoptic_occ.structures.target import Target
from panoptic_occ.testing import toy_categories, toy_sample

CATEGORIES = toy_categories()
SMALL = Binning(sizes=(6, 12))
POLICY = FusionPolicy(conf_thr=0, max_occluded=0.6, same_class_thr=0.7, duplicate_thr=0.6, stuff_area=1)


def fused(instances: InstanceSet, said: Relation | None = None, policy: FusionPolicy = POLICY) -> PanopticMap:
    stats = PairStats.of(instances.masks)
    return fuse(instances, stats, relation(len(instances)) if said is None else said, None, policy)


def random_case(seed: int) -> tuple[Target, InstanceSet, PanopticMap]:
    """Annotations and detections of all kinds: shifted, joined, doubled, mislabelled, made up."""
    generator = torch.Generator().manual_seed(seed)
    target = toy_sample(6, seed).annotations
    dense = target.masks.dense()
    masks: list[torch.Tensor] = []
    labels: list[int] = []
    for k in range(len(dense)):
        for _ in range(int(torch.randint(0, 3, (), generator=generator))):
            shift = torch.randint(-3, 4, (2,), generator=generator).tolist()
            mask = torch.roll(dense[k], shift, (0, 1))
            if torch.rand((), generator=generator) < 0.2:
                mask = mask | dense[(k + 1) % len(dense)]
            masks.append(mask)
            changed = torch.rand((), generator=generator) < 0.2
            labels.append((int(target.labels[k]) + int(changed)) % CATEGORIES.num_things)
    n = len(masks)
    scores = (0.4 + 0.6 * torch.rand(n, generator=generator)).sort(descending=True).values.tolist()
    instances = detections(n, scores, torch.stack(masks) if masks else dense[:0], labels)
    margin = torch.randn(n, n, generator=generator)
    said = Relation(margin - margin.T, PairStats.of(instances.masks).significant(0.1))
    policies = (POLICY, FusionPolicy(conf_thr=0.5, min_visible=0.3, stuff_area=1), FusionPolicy(conf_thr=0))
    return target, instances, fused(instances, said, policies[seed % 3])


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
    matching = []
    for d, mask in enumerate(dense):
        iou = [int((mask & m).sum()) / max(int((mask | m).sum()), 1) for m in full]
        if max(iou) >= 0.5 and iou.index(max(iou)) == k and prediction.records[d].status != "low_score":
            matching.append(d)
    area = {s.instance: int((prediction.ids == s.id).sum()) for s in prediction.segments}
    same_class = [d for d in matching if int(instances.labels[d]) == segment.label]
    if same_class:
        best = min(same_class, key=lambda d: (-area.get(d, 0), d))
        return "inexact" if area.get(best, 0) == int(dense[best].sum()) else "killed"
    if matching:
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
