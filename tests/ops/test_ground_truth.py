"""Ground truth of the order: pixel counts, and which segment belongs to which annotated instance."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from panoptic_occ.ops.ground_truth_relation import ground_truth_relation
from panoptic_occ.ops.segment_matching import MIN_SHARE, TIE_BREAK, match_by_box, match_by_share
from panoptic_occ.structures.masks import MaskCrops
from panoptic_occ.structures.panoptic_map import PanopticMap, Segment


def panoptic_of(ids: Any, segments: dict[int, tuple[int, bool]]) -> PanopticMap:
    """``segments``: id -> (label, iscrowd)."""
    ids = torch.as_tensor(np.asarray(ids), dtype=torch.int32)
    entries = (Segment(n, label, True, int((ids == n).sum()), crowd) for n, (label, crowd) in segments.items())
    return PanopticMap(ids, tuple(entries))


def masks_of(*masks: Any) -> MaskCrops:
    return MaskCrops.from_dense(torch.as_tensor(np.array(masks)).bool())


def relation_by_loops(masks: np.ndarray, segments: list[int], ids: np.ndarray) -> tuple[list[int], Any, Any]:
    n = len(masks)
    inter, own = np.zeros((n, n), dtype=int), np.zeros((n, n), dtype=int)
    for i, j in itertools.product(range(n), repeat=2):
        for pixel in zip(*np.nonzero(masks[i] & masks[j]), strict=True):
            inter[i, j] += 1
            own[i, j] += segments[i] != 0 and ids[pixel] == segments[i]
    return [int((ids == s).sum()) if s else 0 for s in segments], inter, own


def test_o7_majority_against_delta() -> None:
    """M_i: rows 0-1 (8 px); M_j: rows 1-2, columns 0-1 (4 px); a third segment owns row 0; the overlap belongs to i."""
    i, j = np.zeros((4, 4), dtype=bool), np.zeros((4, 4), dtype=bool)
    i[:2], j[1:3, :2] = True, True
    ids = np.array([[3] * 4, [1] * 4, [2, 2, 0, 0], [0] * 4], dtype=np.int32)
    relation = ground_truth_relation(masks_of(i, j), torch.tensor([1, 2]), torch.from_numpy(ids))
    assert relation.area.tolist() == [8, 4]
    assert relation.pan_area.tolist() == [4, 2]
    assert relation.inter.tolist() == [[8, 2], [2, 4]]
    assert relation.visible.tolist() == [[4, 2], [0, 2]]
    assert relation.matrix(0.2, "majority").tolist() == [[-1, 1], [0, -1]]
    assert relation.matrix(0.2, "delta").tolist() == [[-1, 0], [1, -1]]


def test_nearest_boxes_as_in_the_script_of_rap() -> None:
    """Boxes alone decide: of the wrong class, twice the same instance (none of both), a third time (again)."""
    masks = np.zeros((3, 8, 12), dtype=bool)
    masks[0, 0:4, 0:4], masks[1, 0:4, 6:10], masks[2, 6:8, 0:12] = True, True, True
    ids = np.zeros((8, 12), dtype=np.int32)
    ids[0:3, 0:4], ids[0:4, 6:9], ids[6:8, 1:12] = 10, 20, 30
    segments = {10: (0, False), 20: (1, False), 30: (2, False)}
    crops = masks_of(*masks)
    assert match_by_box(crops, panoptic_of(ids, segments)).tolist() == [10, 20, 30]
    assert match_by_share(crops, torch.tensor([1, 1, 2]), panoptic_of(ids, segments)).tolist() == [0, 20, 30]
    ids[5, 5:7] = 40  # also nearest to the second one
    assert match_by_box(crops, panoptic_of(ids, segments | {40: (0, False)})).tolist() == [10, 0, 30]
    ids[4, 6:9] = 50
    assert match_by_box(crops, panoptic_of(ids, segments | {40: (0, False), 50: (0, False)})).tolist() == [10, 50, 30]
    assert match_by_box(crops, panoptic_of(ids, segments | {40: (0, True)})).tolist() == [10, 20, 30]
    assert match_by_box(masks_of(*masks)[torch.arange(0)], panoptic_of(ids, segments)).tolist() == []


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 5))
def test_counts_equal_loops_over_pixels(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, 4, (6, 7)).astype(np.int32)
    masks = rng.random((n, 6, 7)) < rng.choice([0.0, 0.2, 0.7])
    segments = rng.integers(0, 6, n).tolist()  # 4 and 5 name no pixel
    relation = ground_truth_relation(
        MaskCrops.from_dense(torch.from_numpy(masks)), torch.tensor(segments).long(), torch.from_numpy(ids)
    )
    pan_area, inter, own = relation_by_loops(masks, segments, ids)
    assert relation.area.tolist() == masks.sum(axis=(1, 2)).tolist()
    assert relation.pan_area.tolist() == pan_area
    assert np.array_equal(relation.inter.numpy(), inter)
    assert np.array_equal(relation.visible.numpy(), own)


STRIP = [[1, 1, 2, 2, 2, 2, 0, 0]]


@pytest.mark.parametrize(
    ("mask", "label", "crowd", "expected"),
    [
        ([0, 0, 1, 1, 0, 0, 0, 0], 0, False, 2),  # exactly half of segment 2
        ([0, 0, 1, 0, 0, 0, 1, 1], 0, False, 0),  # a quarter
        ([0, 0, 1, 1, 1, 1, 0, 0], 1, False, 0),  # another category
        ([0, 0, 1, 1, 1, 1, 0, 0], 0, True, 0),  # a crowd is nobody's segment
        ([0, 0, 0, 0, 0, 0, 1, 1], 0, False, 0),  # void is no segment
        ([0, 0, 0, 0, 0, 0, 0, 0], 0, False, 0),
    ],
)
def test_matching_at_its_limits(mask: list[int], label: int, crowd: bool, expected: int) -> None:
    panoptic = panoptic_of(STRIP, {2: (0, crowd)})
    assert match_by_share(masks_of([mask]), torch.tensor([label]), panoptic).tolist() == [expected]


def match_by_masks(masks: np.ndarray, labels: np.ndarray, panoptic: PanopticMap) -> list[int]:
    """The assignment on dense masks, with a sum over pixels for every pair."""
    segments = [s for s in panoptic.segments if s.isthing and not s.iscrowd and (panoptic.ids == s.id).any()]
    gain = np.zeros((len(masks), len(segments)))
    for (i, mask), (k, segment) in itertools.product(enumerate(masks), enumerate(segments)):
        pixels = panoptic.ids.numpy() == segment.id
        inter, union = (mask & pixels).sum(), (mask | pixels).sum()
        if labels[i] == segment.label and inter >= MIN_SHARE * pixels.sum():
            gain[i, k] = inter / pixels.sum() + TIE_BREAK * inter / union
    pairs = zip(*linear_sum_assignment(gain, maximize=True), strict=True)
    chosen = {i: segments[k].id for i, k in pairs if gain[i, k]}
    return [chosen.get(i, 0) for i in range(len(masks))]


@pytest.mark.parametrize("seed", range(30))
def test_matching_equals_dense_masks(seed: int) -> None:
    """Blocky maps with large ids, crowds, void, stuff, ids without a segment, empty masks and masks of one pixel."""
    rng = np.random.default_rng(seed)
    numbers = rng.choice(2**24 - 1, size=12, replace=False) + 1
    ids = np.append(numbers, 0)[rng.integers(0, 13, (6, 7))].repeat(5, 0).repeat(4, 1).astype(np.int32)
    full = ids[None] == rng.choice(numbers, int(rng.integers(0, 9)))[:, None, None]
    masks = (full | (rng.random(full.shape) < 0.1)) & (rng.random(full.shape) < 0.8)
    labels = rng.integers(0, 3, len(masks))
    if len(masks) > 2:
        masks[0] = False
        masks[1] = np.arange(ids.size).reshape(ids.shape) == 77
    segments = tuple(
        Segment(int(n), int(rng.integers(3)), bool(rng.random() < 0.8), 1, bool(rng.random() < 0.2))
        for n in rng.permutation(numbers)[:10]
    )
    panoptic = PanopticMap(torch.from_numpy(ids), segments)
    matched = match_by_share(MaskCrops.from_dense(torch.from_numpy(masks)), torch.from_numpy(labels), panoptic)
    assert matched.tolist() == match_by_masks(masks, labels, panoptic)


def test_a_tie_goes_to_the_better_iou() -> None:
    """Both masks cover segment 2 wholly; the second is that segment exactly."""
    masks = masks_of([[1] * 8], [[0, 0, 1, 1, 1, 1, 0, 0]])
    assert match_by_share(masks, torch.tensor([0, 0]), panoptic_of(STRIP, {2: (0, False)})).tolist() == [0, 2]


def test_two_poor_matches_do_not_displace_a_good_one() -> None:
    """Shares: mask 0 covers .4 of segment 1 and .9 of 2, mask 1 covers .6 of 2; .4 + .6 > .9, but .4 is no match."""
    ids = [[1] * 10, [2] * 10]
    masks = masks_of([[1] * 4 + [0] * 6, [1] * 9 + [0]], [[0] * 10, [1] * 6 + [0] * 4])
    panoptic = panoptic_of(ids, {1: (0, False), 2: (0, False)})
    assert match_by_share(masks, torch.tensor([0, 0]), panoptic).tolist() == [2, 0]
