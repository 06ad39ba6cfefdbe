"""Detections and maps whose quality is broken down."""

from __future__ import annotations

import torch

from panoptic_occ.fusion.engine import fuse
from panoptic_occ.fusion.policy import FusionPolicy
from panoptic_occ.metrics.breakdown import Binning
from panoptic_occ.structures.instances import InstanceSet
from panoptic_occ.structures.masks import MaskCrops, PairStats
from panoptic_occ.structures.panoptic_map import PanopticMap
from panoptic_occ.structures.relation import Relation
from panoptic_occ.structures.target import Target
from panoptic_occ.testing import toy_categories, toy_sample

CATEGORIES = toy_categories()
SMALL = Binning(sizes=(6, 12))
POLICY = FusionPolicy(conf_thr=0, max_occluded=0.6, same_class_thr=0.7, duplicate_thr=0.6, stuff_area=1)


def boxes(*edges: tuple[int, int, int, int], size: tuple[int, int] = (8, 30)) -> torch.Tensor:
    """Dense masks from (top, left, bottom, right)."""
    masks = torch.zeros(len(edges), *size, dtype=torch.bool)
    for mask, (top, left, bottom, right) in zip(masks, edges, strict=True):
        mask[top:bottom, left:right] = True
    return masks


def instances_of(masks: torch.Tensor, labels: list[int], scores: list[float] | None = None) -> InstanceSet:
    ranked = torch.linspace(0.9, 0.5, len(masks)) if scores is None else torch.tensor(scores)
    return InstanceSet(MaskCrops.from_dense(masks), torch.zeros(len(masks), 4), ranked, torch.tensor(labels))


def in_front(n: int, *pairs: tuple[int, int]) -> Relation:
    margin = torch.zeros(n, n)
    for i, j in pairs:
        margin[i, j], margin[j, i] = 1.0, -1.0
    return Relation(margin, margin != 0)


def fused(instances: InstanceSet, relation: Relation | None = None, policy: FusionPolicy = POLICY) -> PanopticMap:
    relation = in_front(len(instances)) if relation is None else relation
    return fuse(instances, PairStats.of(instances.masks), relation, None, policy)


def random_case(seed: int) -> tuple[Target, InstanceSet, PanopticMap]:
    """Annotations and detections of all kinds: shifted, joined, doubled, mislabelled, made up."""
    generator = torch.Generator().manual_seed(seed)
    target = toy_sample(6, seed).annotations
    dense = target.masks.dense()
    found: list[torch.Tensor] = []
    labels: list[int] = []
    for k in range(len(dense)):
        for _ in range(int(torch.randint(0, 3, (), generator=generator))):
            shift = torch.randint(-3, 4, (2,), generator=generator).tolist()
            mask = torch.roll(dense[k], shift, (0, 1))
            if torch.rand((), generator=generator) < 0.2:
                mask = mask | dense[(k + 1) % len(dense)]
            found.append(mask)
            changed = torch.rand((), generator=generator) < 0.2
            labels.append((int(target.labels[k]) + int(changed)) % CATEGORIES.num_things)
    masks = torch.stack(found) if found else dense[:0]
    n = len(masks)
    scores = (0.4 + 0.6 * torch.rand(n, generator=generator)).sort(descending=True).values.tolist()
    instances = instances_of(masks, labels, scores)
    margin = torch.randn(n, n, generator=generator)
    relation = Relation(margin - margin.T, PairStats.of(instances.masks).significant(0.1))
    policies = (POLICY, FusionPolicy(conf_thr=0.5, min_visible=0.3, stuff_area=1), FusionPolicy(conf_thr=0))
    return target, instances, fused(instances, relation, policies[seed % 3])
