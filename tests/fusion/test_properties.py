"""The engine against the benchmark's transcriptions of the published algorithms, and what must not change a map."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.scenes import SHARES, Scene, fused, owners, policies, scene
from panoptic_occ.fusion.policy import FusionPolicy
from panoptic_occ.structures.masks import PairStats
from scripts.benchmark import reference
from scripts.benchmark.checks import same_map

SIZE = (5, 6)
share = st.sampled_from(SHARES)
quick = settings(max_examples=120, deadline=None, derandomize=True)


def dense(plain: Scene) -> list[torch.Tensor]:
    """Masks, labels and the stuff of every pixel, as the literal algorithms take them."""
    return [torch.from_numpy(part) for part in (plain.masks, plain.labels, plain.semantic)]


def drawn(seed: int, n: int) -> tuple[Scene, np.random.Generator]:
    """A scene without claims, order and suppressed instances, by falling score."""
    rng = np.random.default_rng(seed)
    plain = scene(rng, n, SIZE, side=6)
    return replace(plain, scores=-np.sort(-plain.scores), claims=None, order=None, duplicate_of=None), rng


scenes = st.builds(drawn, st.integers(0, 2**32 - 1), st.integers(0, 6))


@quick
@given(scenes, share, st.integers(0, 8))
def test_without_relation_it_is_the_heuristic(case: Any, max_occluded: float, stuff_area: int) -> None:
    plain, _ = case
    plain.above[:] = False
    expected = reference.fuse_by_confidence(*dense(plain), max_occluded=max_occluded, stuff_area=stuff_area)
    same_map(fused(plain, FusionPolicy(conf_thr=0, max_occluded=max_occluded, stuff_area=stuff_area)), expected)


@quick
@given(scenes, share, share)
def test_with_pairs_it_is_algorithm_1_of_ocfusion(case: Any, sig_ratio: float, min_visible: float) -> None:
    pairs, _ = case
    masks, labels, semantic = dense(pairs)
    above = torch.from_numpy(pairs.above)
    expected = reference.fuse_by_occlusion(masks, labels, above, semantic, sig_ratio, min_visible, stuff_area=3)
    significant = PairStats.of(pairs.instances.masks).significant(sig_ratio).numpy()
    policy = FusionPolicy(conf_thr=0, min_visible=min_visible, stuff_area=3)
    same_map(fused(replace(pairs, above=pairs.above & significant), policy), expected)


@quick
@given(scenes, st.sampled_from(SHARES[1:]), st.sampled_from(SHARES[1:]), share)
def test_with_values_and_checks_it_is_algorithm_1_of_rap(
    case: Any, same_class_thr: float, duplicate_thr: float, min_visible: float
) -> None:
    valued, rng = case
    masks, labels, semantic = dense(valued)
    values = rng.integers(0, 4, len(masks))  # with ties
    thresholds = {"same_class_thr": same_class_thr, "duplicate_thr": duplicate_thr, "min_visible": min_visible}
    expected = reference.fuse_by_value(
        masks, labels, torch.from_numpy(values).float(), semantic, same_class_thr, duplicate_thr, min_visible, 3
    )
    policy = FusionPolicy(conf_thr=0, stuff_area=3, **thresholds)  # type: ignore[arg-type]
    same_map(fused(replace(valued, above=values[:, None] < values[None, :]), policy), expected)


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
