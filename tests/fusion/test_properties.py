"""The engine against literal transcriptions of the published algorithms, and what must not change a map."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.scenes import SHARES, Scene, fused, owners, policies, scene
from panoptic_occ.fusion.policy import FusionPolicy

SIZE = (5, 6)
share = st.sampled_from(SHARES)
quick = settings(max_examples=120, deadline=None, derandomize=True)


def drawn(seed: int, n: int) -> tuple[Scene, np.random.Generator]:
    """A scene without claims, order and suppressed instances."""
    rng = np.random.default_rng(seed)
    return replace(scene(rng, n, SIZE, side=6), claims=None, order=None, duplicate_of=None), rng


scenes = st.builds(drawn, st.integers(0, 2**32 - 1), st.integers(0, 6))


def ranking(scores: np.ndarray, conf_thr: float) -> list[int]:
    return [i for i in sorted(range(len(scores)), key=lambda i: (-scores[i], i)) if scores[i] >= np.float32(conf_thr)]


@quick
@given(scenes, share, share, st.integers(0, 8))
def test_without_relation_it_is_the_heuristic(case: Any, conf_thr: float, max_occluded: float, stuff_area: int) -> None:
    plain, _ = case
    plain.above[:] = False
    owner = np.full(SIZE, -1)
    for i in ranking(plain.scores, conf_thr):
        mask = plain.masks[i]
        if mask.any() and (mask & (owner >= 0)).sum() / mask.sum() <= max_occluded:
            owner[mask & (owner == -1)] = i
    for label in range(plain.semantic.max() + 1):
        part = (plain.semantic == label) & (owner == -1)
        if part.sum() >= stuff_area:
            owner[part] = -10 - label
    policy = FusionPolicy(conf_thr=conf_thr, max_occluded=max_occluded, stuff_area=stuff_area)
    assert np.array_equal(owners(fused(plain, policy)), owner)


@quick
@given(scenes, share, share, share)
def test_with_pairs_it_is_algorithm_1_of_ocfusion(
    case: Any, conf_thr: float, sig_ratio: float, min_visible: float
) -> None:
    pairs, _ = case
    masks, accepted, owner = pairs.masks, [], np.full(SIZE, -1)
    common = (masks[:, None] & masks[None]).sum(axis=(2, 3)).reshape(len(masks), len(masks))
    shares = common / np.maximum(common.diagonal(), 1)[:, None]
    significant = ((shares >= sig_ratio) | (sig_ratio <= shares.T)) & (common > 0)
    for i in ranking(pairs.scores, conf_thr):
        claim = masks[i] & (owner == -1)
        for j in accepted:
            if significant[i, j] and pairs.above[i, j]:
                claim = claim | (masks[i] & (owner == j))
        if masks[i].any() and claim.sum() / masks[i].sum() > min_visible:
            owner[claim] = i
            accepted.append(i)
    policy = FusionPolicy(conf_thr=conf_thr, min_visible=min_visible, stuff_area=SIZE[0] * SIZE[1] + 1)
    assert np.array_equal(owners(fused(replace(pairs, above=pairs.above & significant), policy)), owner)


@quick
@given(scenes, share, st.sampled_from(SHARES[1:]), st.sampled_from(SHARES[1:]), share, st.booleans())
def test_with_values_and_checks_it_is_algorithm_1_of_rap(
    case: Any, conf_thr: float, same_class_thr: float, duplicate_thr: float, min_visible: float, code: bool
) -> None:
    """Algorithm 1 of the paper, or with ``code`` the two checks as RAP's program makes them."""
    valued, rng = case
    masks, labels, values = valued.masks, valued.labels, rng.integers(0, 4, len(valued.masks))
    owner, label_map, value_map = np.full(SIZE, -1), np.full(SIZE, -1), np.full(SIZE, np.inf)
    accepted: list[int] = []
    for i in ranking(valued.scores, conf_thr):
        mask, area = masks[i], masks[i].sum()
        if area == 0:
            continue
        same = (mask & (owner >= 0) & (label_map == labels[i])).sum() / area
        if same > same_class_thr if code else same >= same_class_thr:
            continue
        others = [owner == j if code else masks[j] for j in accepted]
        common = [((mask & other).sum(), other.sum()) for other in others]
        if any(c and c / area >= duplicate_thr and c / size >= duplicate_thr for c, size in common):
            continue
        claim = mask & (value_map > values[i])
        if claim.sum() / area > min_visible:
            owner[claim], label_map[claim], value_map[claim] = i, labels[i], values[i]
            accepted.append(i)
    policy = FusionPolicy(
        conf_thr=conf_thr,
        same_class_thr=same_class_thr,
        same_class_strict=code,
        duplicate_thr=duplicate_thr,
        duplicate_areas="canvas" if code else "original",
        min_visible=min_visible,
        stuff_area=SIZE[0] * SIZE[1] + 1,
    )
    assert np.array_equal(owners(fused(replace(valued, above=values[:, None] < values[None, :]), policy)), owner)


@quick
@given(scenes, policies)
def test_the_order_of_the_input_does_not_matter(case: Any, policy: FusionPolicy) -> None:
    plain, rng = case
    n = len(plain.masks)
    plain.scores[:] = 0.4 + 0.5 * rng.permutation(n) / max(n, 1)  # distinct
    order = rng.permutation(n)
    above = plain.above[order][:, order]
    permuted = replace(
        plain, masks=plain.masks[order], scores=plain.scores[order], labels=plain.labels[order], above=above
    )
    other = owners(fused(permuted, policy))
    renamed = np.where(other >= 0, np.append(order, -1)[other.clip(min=-1)], other)
    assert np.array_equal(renamed, owners(fused(plain, policy)))


@quick
@given(scenes, policies)
def test_flipping_the_image_flips_the_map(case: Any, policy: FusionPolicy) -> None:
    plain, _ = case
    flipped = replace(plain, masks=plain.masks[:, :, ::-1].copy(), semantic=plain.semantic[:, ::-1].copy())
    assert np.array_equal(owners(fused(flipped, policy))[:, ::-1], owners(fused(plain, policy)))


@quick
@given(scenes, policies, st.integers(0, 6))
def test_an_instance_that_overlaps_nothing_changes_nothing_else(case: Any, policy: FusionPolicy, place: int) -> None:
    plain, _ = case
    plain.semantic[:] = -1
    n = len(plain.masks)
    place = min(place, n)
    others = np.delete(np.arange(n + 1), place)
    above = np.ones((n + 1, n + 1), dtype=bool)
    above[np.ix_(others, others)] = plain.above
    larger = Scene(
        np.insert(plain.masks, place, ~plain.masks.any(axis=0), axis=0),
        np.insert(plain.scores, place, np.float32(0.65)),
        np.insert(plain.labels, place, 1),
        above,
        plain.semantic,
    )
    renamed = np.append(np.insert(np.arange(n), place, -1), -1)[owners(fused(larger, policy))]
    assert np.array_equal(renamed, owners(fused(plain, policy)))
