"""Which annotation a detection stands for, against literal loops."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.small_images import detections, strip
from panoptic_occ.ops.matching import mask_iou, match_boxes, match_instances
from panoptic_occ.structures.instances import InstanceSet
from panoptic_occ.structures.masks import MaskCrops

SIZE = (4, 5)
masks = st.integers(0, 5).flatmap(
    lambda n: st.integers(0, 2**32 - 1).map(
        lambda seed: np.random.default_rng(seed).random((n, *SIZE)) < np.random.default_rng(seed).random((n, 1, 1))
    )
)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(masks, masks, st.sampled_from((0.0, 0.3, 0.5)), st.randoms(use_true_random=False))
def test_greedy_matching_equals_a_literal_loop(detected, annotated, iou_thr, random):
    scores = [random.choice((0.5, 0.6, 0.7)) for _ in detected]
    expected, free = [-1] * len(detected), set(range(len(annotated)))
    for i in sorted(range(len(detected)), key=lambda i: (-scores[i], i)):
        best, best_iou = -1, 0.0
        for k in sorted(free):
            union = (detected[i] | annotated[k]).sum()
            iou = (detected[i] & annotated[k]).sum() / union if union else 0.0
            if iou > best_iou:
                best, best_iou = k, iou
        if best >= 0 and best_iou >= iou_thr:
            expected[i] = best
            free.remove(best)
    targets = MaskCrops.from_dense(torch.from_numpy(annotated))
    assert match_instances(detections(torch.from_numpy(detected), scores), targets, iou_thr).tolist() == expected


def test_iou_of_exactly_the_threshold_matches_and_the_better_score_comes_first():
    instances = detections(strip(4, range(2), range(2)), [0.6, 0.8])
    annotated = MaskCrops.from_dense(strip(4, range(4)))
    assert match_instances(instances, annotated).tolist() == [-1, 0]
    assert match_instances(instances, annotated, 0.51).tolist() == [-1, -1]


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.integers(0, 2**32 - 1), st.sampled_from((0.1, 1 / 3, 0.5, 0.75, 1.0)))
def test_pairs_that_reach_the_threshold_are_exact_and_others_never_seem_to(seed, iou_thr):
    rng = np.random.default_rng(seed)

    def loose(n):
        """Boxes with a few holes; the windows may be larger, touch the edge, or be empty."""
        dense = np.zeros((n, 9, 11), dtype=bool)
        for mask in dense:
            top, left = rng.integers(0, 9), rng.integers(0, 11)
            mask[top : top + rng.integers(0, 9), left : left + rng.integers(0, 11)] = True
            mask &= rng.random((9, 11)) > rng.choice((0, 0.3))
        tight = MaskCrops.from_dense(torch.from_numpy(dense))
        if rng.random() < 0.5:
            return dense, tight
        crops = [torch.from_numpy(mask) for mask in dense]
        return dense, MaskCrops.from_crops(crops, [(0, 0)] * n, (9, 11))

    (one, first), (other, second) = loose(rng.integers(0, 6)), loose(rng.integers(0, 6))
    common = (one[:, None] & other[None]).sum(axis=(2, 3))
    union = (one[:, None] | other[None]).sum(axis=(2, 3))
    exact = common / np.maximum(union, 1)
    iou = mask_iou(first, second, iou_thr).numpy()
    assert iou.shape == exact.shape
    assert np.array_equal(iou >= iou_thr, exact >= iou_thr)
    assert np.array_equal(iou[exact >= iou_thr], exact[exact >= iou_thr])
    assert np.array_equal(mask_iou(first, second).numpy(), exact)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.integers(0, 2**32 - 1), st.sampled_from((0.0, 0.25, 0.5)))
def test_boxes_match_as_masks_that_fill_them(seed, iou_thr):
    """Also boxes without area, which match nothing."""
    rng = np.random.default_rng(seed)

    def boxes(n):
        corners = np.sort(rng.integers(0, 7, (n, 2, 2)), axis=1)  # low and high of x and y
        dense = np.zeros((n, 6, 6), dtype=bool)
        for mask, ((left, top), (right, bottom)) in zip(dense, corners, strict=True):
            mask[top:bottom, left:right] = True
        return torch.from_numpy(corners.reshape(n, 4)).float(), MaskCrops.from_dense(torch.from_numpy(dense))

    (placed, filled), (annotated, masks) = boxes(rng.integers(0, 6)), boxes(rng.integers(0, 6))
    scores, labels = torch.from_numpy(rng.choice((0.5, 0.6, 0.7), len(placed))), torch.zeros(len(placed)).long()
    instances = InstanceSet(filled, placed, scores, labels)
    assert torch.equal(match_boxes(instances, annotated, iou_thr), match_instances(instances, masks, iou_thr))
