"""The fast functions against literal, dense, slow ones on random and awkward inputs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from panoptic_occ.fusion.engine import fuse
from panoptic_occ.fusion.policy import FusionPolicy
from panoptic_occ.metrics.pq.core import IOU_UNIT
from panoptic_occ.metrics.pq.metric import panoptic_counts
from panoptic_occ.occlusion.heads.roi_head import PairHead
from panoptic_occ.structures.instances import InstanceSet
from panoptic_occ.structures.masks import MaskCrops, PairStats
from panoptic_occ.structures.panoptic_map import PanopticMap, Segment
from panoptic_occ.structures.relation import Relation
from panoptic_occ.stuff.label_map import most_likely
from panoptic_occ.thing.paste import paste_masks
from scripts.benchmark import reference
from scripts.benchmark.checks import close, same_counts, same_labels, same_map, same_masks
from scripts.benchmark.inputs import Detections

fuzz = settings(max_examples=150, deadline=None)
seeds = st.integers(0, 2**32 - 1)
counts = st.integers(0, 9)
SIZE = (13, 17)


def scene(seed: int, n: int) -> tuple[InstanceSet, torch.Tensor]:
    """Masks that touch, hide each other, are one pixel or empty; scores and labels with ties; a coarse label map."""
    rng = np.random.default_rng(seed)
    dense = torch.zeros((n, *SIZE), dtype=torch.bool)
    step = int(rng.choice([1, 4]))  # on a coarse grid many shares are exactly a threshold
    for mask in dense:
        (y0, y1), (x0, x1) = (step * np.sort(rng.integers(0, edge // step + 1, 2)) for edge in SIZE)
        filled = 1.0 if step > 1 else rng.choice([0.2, 0.7, 1.0])
        mask[y0:y1, x0:x1] = torch.from_numpy(rng.random((y1 - y0, x1 - x0)) < filled)
    scores = torch.from_numpy(np.sort(rng.choice([0.5, 0.5, 0.7, 0.9, 1.0], n))[::-1].copy())
    labels = torch.from_numpy(rng.integers(0, 2, n))
    semantic = torch.from_numpy(rng.integers(-1, 3, (5, 6))).repeat_interleave(3, 0).repeat_interleave(3, 1)
    semantic = torch.where(semantic < 0, -1, semantic + 3)[: SIZE[0], : SIZE[1]]
    return InstanceSet(MaskCrops.from_dense(dense), torch.zeros(n, 4), scores, labels), semantic


def fused(
    instances: InstanceSet, semantic: torch.Tensor, above: torch.Tensor, sig: float, **policy: float
) -> PanopticMap:
    stats = PairStats.of(instances.masks)
    relation = Relation(above, stats.significant(sig), antisymmetric=False)
    return fuse(instances, stats, relation, semantic, FusionPolicy(**policy))


@fuzz
@given(seeds, counts, st.sampled_from([0.0, 0.25, 0.5, 0.75]), st.sampled_from([0, 1, 9, 18]))
def test_fusion_by_confidence(seed: int, n: int, max_occluded: float, stuff_area: int) -> None:
    instances, semantic = scene(seed, n)
    ours = fused(instances, semantic, torch.zeros(n, n), 0.2, max_occluded=max_occluded, stuff_area=stuff_area)
    dense = instances.masks.dense()
    same_map(ours, reference.fuse_by_confidence(dense, instances.labels, semantic, max_occluded, stuff_area))


@fuzz
@given(seeds, counts, st.sampled_from([0.05, 0.25, 0.5]), st.sampled_from([0.25, 0.5]))
def test_algorithm_1_of_ocfusion(seed: int, n: int, sig_ratio: float, min_visible: float) -> None:
    instances, semantic = scene(seed, n)
    above = torch.from_numpy(np.random.default_rng(seed).random((n, n)) < 0.5)
    ours = fused(instances, semantic, above.float(), sig_ratio, min_visible=min_visible, stuff_area=5)
    thresholds = sig_ratio, min_visible, 5
    theirs = reference.fuse_by_occlusion(instances.masks.dense(), instances.labels, above, semantic, *thresholds)
    same_map(ours, theirs)


@fuzz
@given(seeds, counts, st.sampled_from([0.25, 0.5]), st.sampled_from([0.5, 0.75]), st.sampled_from([0.25, 0.5]))
def test_algorithm_1_of_rap(seed: int, n: int, same_class: float, duplicate: float, min_visible: float) -> None:
    instances, semantic = scene(seed, n)
    values = torch.from_numpy(np.random.default_rng(seed).integers(0, 4, n)).float()  # with ties
    policy = {"same_class_thr": same_class, "duplicate_thr": duplicate, "min_visible": min_visible, "stuff_area": 5}
    ours = fused(instances, semantic, values[None, :] - values[:, None], 0.0, **policy)
    thresholds = same_class, duplicate, min_visible, 5
    theirs = reference.fuse_by_value(instances.masks.dense(), instances.labels, values, semantic, *thresholds)
    same_map(ours, theirs)


def test_fusion_of_more_segments_than_a_byte_can_number() -> None:
    """300 crossing bars: an owner map of small integers would run over."""
    n, size = 300, (20, 320)
    dense = torch.zeros((n, *size), dtype=torch.bool)
    for k in range(n):
        dense[k, k % 7 : 12 + k % 7, k : k + 3] = True
    instances = InstanceSet(MaskCrops.from_dense(dense), torch.zeros(n, 4), torch.ones(n), torch.arange(n) % 5)
    semantic = torch.full(size, 7)
    above = torch.from_numpy(np.random.default_rng(0).random((n, n)) < 0.5)
    ours = fused(instances, semantic, above.float(), 0.2, min_visible=0.1, stuff_area=10)
    assert len(ours.segments) > 256
    same_map(ours, reference.fuse_by_occlusion(dense, instances.labels, above, semantic, 0.2, 0.1, 10))


@fuzz
@given(seeds, counts)
def test_pair_statistics(seed: int, n: int) -> None:
    masks = scene(seed, n)[0].masks
    stats = PairStats.of(masks)
    expected = reference.pair_counts(masks.dense()).long()
    assert torch.equal(stats.inter, expected)
    assert torch.equal(stats.area, expected.diagonal())


@fuzz
@given(seeds, counts, st.sampled_from([1, 2, 7, 28]))
def test_paste(seed: int, n: int, side: int) -> None:
    """Boxes inside, across the edges, wholly outside, thinner than a pixel, and of size zero."""
    rng = np.random.default_rng(seed)
    corner, extent = rng.uniform(-12, 20, (n, 2)), rng.choice([0, 0.3, 1, 4.5, 30], (n, 2))
    boxes = torch.from_numpy(np.concatenate([corner, corner + extent], axis=1)).float()
    soft = torch.from_numpy(rng.random((n, side, side))).float()
    things = Detections(boxes, soft, torch.ones(n), torch.zeros(n, dtype=torch.int64), SIZE)
    ours = paste_masks(soft, boxes, SIZE)
    same_masks(ours, reference.paste(soft, boxes, SIZE), things)


@fuzz
@given(seeds, st.sampled_from([1, 2, 9]), st.sampled_from([None, (11, 14), (5, 33), (40, 31)]), st.booleans())
def test_label_map(seed: int, channels: int, size: tuple[int, int] | None, ties: bool) -> None:
    """Same size, smaller, stretched and larger than the network's; with ties many cells have several winners."""
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 3, (channels, 8, 8)) if ties else rng.normal(size=(channels, 8, 8))
    logits, inside = torch.from_numpy(values).float(), (int(rng.integers(1, 33)), int(rng.integers(1, 33)))
    size = size or inside
    same_labels(most_likely(logits, inside, size), reference.label_map(logits, inside, size), logits, inside, size)


@pytest.mark.parametrize(("n", "pairs"), [(2, 1), (3, 6), (6, 30), (5, 0)])
def test_pair_head(n: int, pairs: int) -> None:
    torch.manual_seed(0)
    head = PairHead(5, 8, 16).eval()
    x = torch.randn(n, 5, 14, 14)
    every = torch.tensor([(i, j) for i in range(n) for j in range(n) if i != j])[:pairs].reshape(-1, 2)
    with torch.no_grad():
        if pairs:
            close(head(x, every), reference.pair_logits(head, x, every), "logits", 1e-5)


@fuzz
@given(seeds, st.integers(1, 6))
def test_panoptic_quality(seed: int, n: int) -> None:
    """With VOID, crowds (one a category: the official evaluation remembers the last), and ids missing in the list."""
    rng = np.random.default_rng(seed)
    coarse = torch.from_numpy(rng.integers(0, n + 1, (3, 3))).repeat_interleave(3, 0).repeat_interleave(3, 1)
    changes, fresh = rng.random(coarse.shape) < 0.25, rng.integers(0, n + 1, coarse.shape)
    other = torch.where(torch.from_numpy(changes), torch.from_numpy(fresh), coarse)
    target, prediction = _listed(coarse, rng, crowds=True), _listed(other, rng, crowds=False)
    unlisted = PanopticMap(torch.where(target.ids == 0, 77 * int(rng.integers(2)), target.ids), target.segments)
    ours = panoptic_counts(prediction, unlisted, 3)
    theirs = reference.panoptic_counts(prediction, unlisted, 3)
    same_counts((ours.tp, ours.fp, ours.fn, ours.iou / IOU_UNIT), theirs)


def _listed(ids: torch.Tensor, rng: np.random.Generator, crowds: bool) -> PanopticMap:
    segments, crowded = [], set()
    for k in ids.unique().tolist():
        label = int(rng.integers(3))
        if k > 0:
            crowd = crowds and label not in crowded and rng.random() < 0.3
            crowded |= {label} if crowd else set()
            segments.append(Segment(k, label, True, int((ids == k).sum()), iscrowd=bool(crowd)))
    return PanopticMap(ids.int(), tuple(segments))
