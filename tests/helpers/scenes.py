"""Random scenes for the fusion: dense masks and claims, labels, scores and pairs with many ties; random policies."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from hypothesis import strategies as st

from panoptic_occ.fusion.engine import fuse
from panoptic_occ.fusion.policy import FusionPolicy
from panoptic_occ.structures.instances import InstanceSet
from panoptic_occ.structures.masks import MaskCrops, PairStats
from panoptic_occ.structures.panoptic_map import PanopticMap
from panoptic_occ.structures.relation import Relation

SHARES = (0.0, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.75, 1.0)
THINGS = 3
shares = st.none() | st.sampled_from(SHARES)
policies = st.builds(
    FusionPolicy,
    conf_thr=st.sampled_from(SHARES[:7]),
    max_occluded=shares,
    min_visible=shares,
    canvas_sig_ratio=shares,
    same_class_thr=shares,
    same_class_strict=st.booleans(),
    duplicate_thr=shares,
    duplicate_areas=st.sampled_from(["original", "canvas"]),
    post_min_visible=shares,
    stuff_area=st.integers(0, 12),
    stuff_rule=st.sampled_from(["class", "component"]),
)


@dataclass
class Scene:
    """Masks (N,H,W), what the relation says of them, and the stuff of every pixel."""

    masks: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    above: np.ndarray
    semantic: np.ndarray
    claims: np.ndarray | None = None
    order: np.ndarray | None = None
    duplicate_of: np.ndarray | None = None

    @property
    def instances(self) -> InstanceSet:
        masks, n = MaskCrops.from_dense(torch.from_numpy(self.masks)), len(self.masks)
        return InstanceSet(masks, torch.zeros(n, 4), torch.from_numpy(self.scores), torch.from_numpy(self.labels))


def scene(rng: np.random.Generator, n: int, size: tuple[int, int], side: int) -> Scene:
    """``n`` rectangles with holes, empty ones and near copies among them, no longer than ``side``."""
    masks = np.zeros((n, *size), dtype=bool)
    for i, mask in enumerate(masks):
        if i and rng.random() < 0.4:
            mask[:] = masks[rng.integers(i)] & (rng.random(size) < 0.95)
            continue
        (top, bottom), (left, right) = (sorted(rng.integers(0, length + 1, 2)) for length in size)
        part = mask[top : min(bottom, top + side), left : min(right, left + side)]
        part[:] = rng.random(part.shape) < rng.choice([0.4, 0.9, 1.0])
    patches = np.kron(rng.integers(-2, 4, size), np.ones((2, 2), dtype=int))[: size[0], : size[1]]
    return Scene(
        masks,
        claims=masks & (rng.random(masks.shape) < rng.choice([0.3, 0.8, 1.0])) if rng.random() < 0.4 else None,
        scores=(0.4 + rng.integers(0, 4, n) / 8).astype(np.float32),
        labels=rng.integers(0, THINGS, n),
        above=rng.random((n, n)) < rng.choice([0.0, 0.3, 0.6]),
        order=rng.permutation(n) if rng.random() < 0.4 else None,
        duplicate_of=np.where(rng.random(n) < 0.2, rng.integers(0, max(n, 1), n), -1) if rng.random() < 0.3 else None,
        semantic=stuff_labels(patches if rng.random() < 0.6 else rng.integers(-2, 300, size)),
    )


def stuff_labels(numbers: np.ndarray) -> np.ndarray:
    """Labels of stuff, which come after those of the things, without the ignore label."""
    return np.where((numbers < 0) | (numbers + THINGS == 255), -1, numbers + THINGS)


def fused(scene: Scene, policy: FusionPolicy, loose: bool = False) -> PanopticMap:
    """The suite's map; ``loose`` claims have crops as large as the image."""
    instances, claims = scene.instances, None
    if scene.claims is not None:
        parts, corners = torch.from_numpy(scene.claims), [(0, 0)] * len(scene.claims)
        claims = MaskCrops.from_dense(parts)
        claims = MaskCrops.from_crops(list(parts), corners, claims.size) if loose else claims
    above = torch.from_numpy(scene.above)
    relation = Relation(
        above.float(),
        torch.ones_like(above),
        order=None if scene.order is None else torch.from_numpy(scene.order),
        antisymmetric=False,
        claims=claims,
        duplicate_of=None if scene.duplicate_of is None else torch.from_numpy(scene.duplicate_of),
    )
    return fuse(instances, PairStats.of(instances.masks), relation, torch.from_numpy(scene.semantic), policy)


def owners(panoptic: PanopticMap) -> np.ndarray:
    """The instance of every pixel, -1 for none, -10 - label for stuff."""
    names = [-1, *(s.instance if s.isthing else -10 - s.label for s in panoptic.segments)]
    return np.array(names)[panoptic.ids.numpy()]
