"""The whole engine, every policy and every record, against one literal loop over dense masks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from helpers.scenes import Scene, fused, owners, policies, scene, stuff_labels
from panoptic_occ.fusion.policy import FusionPolicy
from panoptic_occ.structures.panoptic_map import PanopticMap


@dataclass
class Literal:
    """The fusion, one dense map at a time."""

    scene: Scene
    policy: FusionPolicy
    records: list[dict[str, Any]] = field(default_factory=list)

    def run(self) -> np.ndarray:
        """Owners (-1: none), and at -10 - label the stuff."""
        scene, policy = self.scene, self.policy
        n, masks = len(scene.masks), scene.masks
        self.owner = np.full(scene.semantic.shape, -1)
        self.accepted: list[int] = []
        self.taken = np.zeros((n, n), dtype=int)
        self.records = [
            {"status": "low_score", "area": int(mask.sum()), "free": 0, "reclaimed": 0, "final": 0, "blocker": None}
            | {"met": ()}
            for mask in masks
        ]
        order = sorted(range(n), key=lambda i: (-scene.scores[i], i))
        self.beaten: dict[int, int] = {}
        self.claims = masks if scene.claims is None else scene.claims.copy()
        if policy.duplicate_areas == "original" and not (scene.order is None and scene.claims is None):
            self.settle_duplicates(order)
            for i, twin in self.beaten.items():
                self.claims[twin] |= self.claims[i] & masks[twin]
        if scene.order is not None:
            order = scene.order.tolist()
        for i in order:
            if scene.scores[i] >= np.float32(policy.conf_thr):
                self.offer(i)
        for i in self.accepted:
            share = (self.owner == i).sum() / masks[i].sum()
            if share == 0 or (policy.post_min_visible is not None and share <= policy.post_min_visible):
                self.owner[self.owner == i] = -1
                self.note(i, "erased", largest(self.taken[:, i]))
            self.records[i]["final"] = int((self.owner == i).sum())
        self.numbered = [i for i in order if (self.owner == i).any()]
        return self.with_stuff()

    def settle_duplicates(self, by_score: list[int]) -> None:
        standing: list[int] = []
        for i in by_score:
            excluded = self.scene.duplicate_of is not None and self.scene.duplicate_of[i] >= 0
            if self.scene.scores[i] < np.float32(self.policy.conf_thr) or excluded or not self.scene.masks[i].any():
                continue
            twins = self.twins(i, standing)
            if twins.any():
                self.beaten[i] = int(twins.argmax())
            else:
                standing.append(i)

    def twins(self, i: int, others: list[int]) -> np.ndarray:
        """Pixels that mask i shares with each mask that it repeats."""
        scene, policy = self.scene, self.policy
        pixels = np.zeros(len(scene.masks), dtype=int)
        for j in others if policy.duplicate_thr is not None else []:
            other = self.owner == j if policy.duplicate_areas == "canvas" else scene.masks[j]
            common = (scene.masks[i] & other).sum()
            if common and min(common / scene.masks[i].sum(), common / other.sum()) >= policy.duplicate_thr:
                pixels[j] = (scene.masks[i] & scene.masks[j]).sum()
        return pixels

    def note(self, i: int, status: str, blocker: int | None = None) -> None:
        self.records[i]["status"], self.records[i]["blocker"] = status, blocker

    def offer(self, i: int) -> None:
        scene, policy, owner = self.scene, self.policy, self.owner
        mask = scene.masks[i]
        claim = self.claims[i]
        area, n = mask.sum(), len(scene.masks)
        if area == 0:
            return self.note(i, "empty")
        if scene.duplicate_of is not None and scene.duplicate_of[i] >= 0:
            return self.note(i, "duplicate", int(scene.duplicate_of[i]))
        if i in self.beaten:
            return self.note(i, "duplicate", self.beaten[i])
        held = np.array([(mask & (owner == j)).sum() for j in range(n)])
        self.records[i]["met"] = tuple(np.flatnonzero(held).tolist())
        above = scene.above[i].copy()
        if policy.canvas_sig_ratio is not None:
            owned = np.array([(owner == j).sum() for j in range(n)])
            above &= np.maximum(held / area, held / np.maximum(owned, 1)) >= policy.canvas_sig_ratio
        won = np.array([(claim & (owner == j)).sum() * above[j] for j in range(n)])
        gain = claim & ((owner == -1) | np.isin(owner, np.flatnonzero(above)))
        self.records[i]["free"] = int((claim & (owner == -1)).sum())
        same = np.where(scene.labels == scene.labels[i], held, 0)
        if policy.same_class_thr is not None and same.sum() > 0:
            share = same.sum() / area
            if share > policy.same_class_thr or (share == policy.same_class_thr and not policy.same_class_strict):
                return self.note(i, "same_class", largest(same))
        twins = self.twins(i, self.accepted)
        if twins.any():
            return self.note(i, "duplicate", largest(twins))
        hidden = policy.max_occluded is not None and (area - gain.sum()) / area > policy.max_occluded
        invisible = policy.min_visible is not None and gain.sum() / area <= policy.min_visible
        if not gain.any() or hidden or invisible:
            return self.note(i, "occluded", largest(held - won))
        owner[gain] = i
        self.accepted.append(i)
        self.taken[i] = won
        self.records[i]["reclaimed"] = int(won.sum())
        return self.note(i, "kept")

    def with_stuff(self) -> np.ndarray:
        filled = self.owner.copy()
        for label in sorted(set(self.scene.semantic[self.scene.semantic >= 0].tolist())):
            region = (self.owner == -1) & (self.scene.semantic == label)
            if self.policy.stuff_rule == "component":
                parts, count = ndimage.label(region, np.ones((3, 3)))
                for k in range(1, count + 1):
                    if (parts == k).sum() < self.policy.stuff_area:
                        region &= parts != k
            if region.sum() >= max(self.policy.stuff_area, 1):
                filled[region] = -10 - label
        return filled


def largest(counts: np.ndarray) -> int | None:
    return int(counts.argmax()) if counts.any() else None


def check(scene: Scene, policy: FusionPolicy, loose: bool = False) -> PanopticMap:
    literal = Literal(scene, policy)
    expected = literal.run()
    panoptic = fused(scene, policy, loose)
    assert panoptic.ids.dtype == torch.int32
    assert np.array_equal(owners(panoptic), expected)
    assert [s.id for s in panoptic.segments] == list(range(1, len(panoptic.segments) + 1))
    assert [s.instance for s in panoptic.segments if s.isthing] == literal.numbered
    names = [s.instance if s.isthing else -10 - s.label for s in panoptic.segments]
    assert [s.area for s in panoptic.segments] == [int((expected == name).sum()) for name in names]
    stuff = [s.label for s in panoptic.segments[len(literal.numbered) :]]  # things first, then stuff by label
    assert stuff == sorted(set(stuff))
    assert [vars(record) for record in panoptic.records] == literal.records
    numbers = [value for record in panoptic.records for value in (*vars(record).values(), *record.met)]
    assert all(type(value) in (int, str, type(None), tuple) for value in numbers)
    return panoptic


@settings(max_examples=250, deadline=None, derandomize=True)
@given(st.integers(0, 2**32 - 1), st.integers(0, 9), st.integers(1, 12), policies, st.booleans())
def test_every_map_and_record_is_the_literal_one(
    seed: int, n: int, side: int, policy: FusionPolicy, loose: bool
) -> None:
    rng = np.random.default_rng(seed)
    size = int(rng.integers(1, 9)), int(rng.integers(1, 10))
    check(scene(rng, n, size, side), policy, loose)


@pytest.mark.parametrize("seed", range(40))
def test_owners_that_lost_pixels_hold_the_rest(seed: int) -> None:
    """Hardly anything is rejected here, so instances take from each other again and again."""
    rng = np.random.default_rng(seed)
    taking = scene(rng, int(rng.integers(4, 12)), (8, 9), side=12)
    taking.duplicate_of = None
    check(taking, FusionPolicy(conf_thr=0.4, min_visible=0.1, stuff_area=3))


@pytest.mark.parametrize("erased", [None, 0.3])
def test_more_instances_than_a_byte_can_tell_apart(erased: float | None) -> None:
    n, rng = 340, np.random.default_rng(340)
    many = scene(rng, n, (20, 20), side=2)
    many.scores[:] = 0.9
    many.claims = many.duplicate_of = None
    many.above[:] = rng.random((n, n)) < 0.3
    many.masks[np.arange(n), np.arange(n) // 20, np.arange(n) % 20] = True  # a pixel of its own, so that most are kept
    many.semantic[:] = stuff_labels(rng.integers(-1, 200, many.semantic.shape))
    panoptic = check(many, FusionPolicy(min_visible=0.0, post_min_visible=erased, stuff_area=1))
    assert sum(record.status in ("kept", "erased") for record in panoptic.records) > 255
