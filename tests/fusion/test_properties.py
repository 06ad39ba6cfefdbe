"""The engine against literal transcriptions of the published algorithms, on random masks full of ties."""

from dataclasses import replace

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from panoptic_occ.fusion.engine import fuse
from panoptic_occ.fusion.policy import FusionPolicy
from panoptic_occ.structures.instances import InstanceSet
from panoptic_occ.structures.masks import MaskCrops, PairStats
from panoptic_occ.structures.relation import Relation

SIZE = (5, 6)
SHARES = (0.0, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.75, 1.0)
shares = st.sampled_from(SHARES)
quick = settings(max_examples=120, deadline=None, derandomize=True)


@st.composite
def scenes(draw, distinct=False):
    """Random rectangles with holes; scores, values and margins with many ties unless ``distinct``."""
    n = draw(st.integers(0, 6))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    masks = np.zeros((n, *SIZE), dtype=bool)
    for mask in masks:
        (top, bottom), (left, right) = (sorted(rng.integers(0, side + 1, 2)) for side in SIZE)
        mask[top:bottom, left:right] = rng.random((bottom - top, right - left)) < 0.9
    scores = 0.4 + 0.5 * (rng.permutation(n) / max(n, 1) if distinct else rng.integers(0, 4, n) / 4)
    return {
        "masks": masks,
        "scores": scores.astype(np.float32),
        "labels": rng.integers(0, 2, n),
        "margin": rng.integers(-2, 3, (n, n)).astype(np.float32),
        "values": rng.integers(0, 4, n).astype(np.float32),
        "semantic": rng.integers(-1, 4, SIZE),
    }


def instance_set(scene):
    return InstanceSet(
        masks=MaskCrops.from_dense(torch.from_numpy(scene["masks"])),
        boxes=torch.zeros(len(scene["masks"]), 4),
        scores=torch.from_numpy(scene["scores"]),
        labels=torch.from_numpy(scene["labels"]),
    )


def engine(scene, policy, margin=None, sig_ratio=0.2, semantic=None):
    """The map as instance numbers (-1: none; 100 + label: stuff) and the PanopticMap."""
    instances = instance_set(scene)
    stats = PairStats.of(instances.masks)
    margin = torch.zeros(stats.inter.shape) if margin is None else torch.from_numpy(margin)
    relation = Relation(margin, stats.significant(sig_ratio), antisymmetric=False)
    panoptic = fuse(instances, stats, relation, None if semantic is None else torch.from_numpy(semantic), policy)
    owner = np.full(SIZE, -1)
    for segment in panoptic.segments:
        name = segment.instance if segment.isthing else 100 + segment.label
        owner[panoptic.ids.numpy() == segment.id] = name
    return owner, panoptic


def ranking(scores, conf_thr):
    return [i for i in sorted(range(len(scores)), key=lambda i: (-scores[i], i)) if scores[i] >= np.float32(conf_thr)]


def literal_heuristic(scene, conf_thr, max_occluded, stuff_area):
    owner = np.full(SIZE, -1)
    for i in ranking(scene["scores"], conf_thr):
        mask = scene["masks"][i]
        if not mask.any() or (mask & (owner >= 0)).sum() / mask.sum() > max_occluded:
            continue
        owner[mask & (owner == -1)] = i
    for label in range(4):
        part = (scene["semantic"] == label) & (owner == -1)
        if part.sum() >= stuff_area:
            owner[part] = 100 + label
    return owner


def literal_ocfusion(scene, conf_thr, sig_ratio, min_visible):
    owner, accepted, masks = np.full(SIZE, -1), [], scene["masks"]
    for i in ranking(scene["scores"], conf_thr):
        area = masks[i].sum()
        if area == 0:
            continue
        claim = masks[i] & (owner == -1)
        for j in accepted:
            common = (masks[i] & masks[j]).sum()
            if common == 0:
                continue
            significant = common / area >= sig_ratio or common / masks[j].sum() >= sig_ratio
            if significant and scene["margin"][i, j] > 0:
                claim = claim | (masks[i] & (owner == j))
        if claim.sum() / area <= min_visible:
            continue
        owner[claim] = i
        accepted.append(i)
    return owner


def literal_rap(scene, conf_thr, same_class_thr, duplicate_thr, min_visible, code=False):
    """Algorithm 1 of the paper, or with ``code`` the two checks as RAP's program makes them."""
    masks, labels, values = scene["masks"], scene["labels"], scene["values"]
    owner, label_map, value_map = np.full(SIZE, -1), np.full(SIZE, -1), np.full(SIZE, np.inf)
    accepted = []
    for i in ranking(scene["scores"], conf_thr):
        mask, area = masks[i], masks[i].sum()
        if area == 0:
            continue
        same = (mask & (owner >= 0) & (label_map == labels[i])).sum() / area
        if same > same_class_thr if code else same >= same_class_thr:
            continue
        others = [owner == j if code else masks[j] for j in accepted]
        common = [(mask & other).sum() for other in others]
        if any(
            c and c / area >= duplicate_thr and c / other.sum() >= duplicate_thr
            for c, other in zip(common, others, strict=True)
        ):
            continue
        claim = mask & (value_map > values[i])
        if claim.sum() / area <= min_visible:
            continue
        owner[claim], label_map[claim], value_map[claim] = i, labels[i], values[i]
        accepted.append(i)
    return owner


@quick
@given(scenes(), shares, shares, st.integers(0, 8))
def test_without_relation_it_is_the_heuristic(scene, conf_thr, max_occluded, stuff_area):
    policy = FusionPolicy(conf_thr=conf_thr, max_occluded=max_occluded, stuff_area=stuff_area)
    owner, _ = engine(scene, policy, semantic=scene["semantic"])
    assert np.array_equal(owner, literal_heuristic(scene, conf_thr, max_occluded, stuff_area))


@quick
@given(scenes(), shares, shares, shares)
def test_with_pairs_it_is_algorithm_1_of_ocfusion(scene, conf_thr, sig_ratio, min_visible):
    policy = FusionPolicy(conf_thr=conf_thr, min_visible=min_visible)
    owner, _ = engine(scene, policy, scene["margin"], sig_ratio)
    assert np.array_equal(owner, literal_ocfusion(scene, conf_thr, sig_ratio, min_visible))


@quick
@given(scenes(), shares, st.sampled_from(SHARES[1:]), st.sampled_from(SHARES[1:]), shares, st.booleans())
def test_with_values_and_checks_it_is_algorithm_1_of_rap(
    scene, conf_thr, same_class_thr, duplicate_thr, min_visible, code
):
    policy = FusionPolicy(
        conf_thr=conf_thr,
        same_class_thr=same_class_thr,
        same_class_strict=code,
        duplicate_thr=duplicate_thr,
        duplicate_areas="canvas" if code else "original",
        min_visible=min_visible,
    )
    values = scene["values"]
    owner, _ = engine(scene, policy, values[None, :] - values[:, None], sig_ratio=0.0)
    assert np.array_equal(owner, literal_rap(scene, conf_thr, same_class_thr, duplicate_thr, min_visible, code))


@st.composite
def policies(draw):
    optional = st.one_of(st.none(), shares)
    return FusionPolicy(
        conf_thr=draw(shares),
        max_occluded=draw(optional),
        min_visible=draw(optional),
        same_class_thr=draw(optional),
        duplicate_thr=draw(optional),
        stuff_area=draw(st.integers(0, 6)),
        same_class_strict=draw(st.booleans()),
        duplicate_areas=draw(st.sampled_from(["original", "canvas"])),
        post_min_visible=draw(optional),
    )


@quick
@given(scenes(), policies())
def test_maps_and_records_are_consistent(scene, policy):
    owner, panoptic = engine(scene, policy, scene["margin"], semantic=scene["semantic"])
    ids = panoptic.ids.numpy()
    assert [segment.id for segment in panoptic.segments] == list(range(1, len(panoptic.segments) + 1))
    assert sorted(set(ids.flatten()) - {0}) == [segment.id for segment in panoptic.segments]
    for segment in panoptic.segments:
        region = ids == segment.id
        assert segment.area == region.sum() > 0
        if segment.isthing:
            assert scene["masks"][segment.instance][region].all()
            assert segment.label == scene["labels"][segment.instance]
        else:
            assert (scene["semantic"][region] == segment.label).all()
    assert [s.isthing for s in panoptic.segments] == sorted((s.isthing for s in panoptic.segments), reverse=True)
    stuff = [s.label for s in panoptic.segments if not s.isthing]
    assert stuff == sorted(set(stuff))
    for i, record in enumerate(panoptic.records):
        assert record.area == scene["masks"][i].sum()
        assert record.final == (owner == i).sum()
        assert (record.final > 0) == (record.status == "kept")
        assert (record.status == "low_score") == (scene["scores"][i] < np.float32(policy.conf_thr))
        assert record.blocker is None or (scene["masks"][i] & scene["masks"][record.blocker]).any()
        assert record.status not in ("same_class", "duplicate") or record.blocker is not None
        if record.status == "erased":
            assert record.blocker is not None or record.free / record.area <= policy.post_min_visible


@quick
@given(scenes(distinct=True), policies(), st.randoms(use_true_random=False))
def test_the_order_of_the_input_does_not_matter(scene, policy, random):
    order = np.array(random.sample(range(len(scene["masks"])), len(scene["masks"])), dtype=int)
    permuted = {key: value[order] for key, value in scene.items() if key not in ("margin", "semantic")}
    owner, _ = engine(scene, policy, scene["margin"])
    other, _ = engine(permuted, policy, scene["margin"][order][:, order])
    renamed = np.append(order, -1)[other]
    assert np.array_equal(owner, renamed)


@quick
@given(scenes(), policies())
def test_flipping_the_image_flips_the_map(scene, policy):
    owner, _ = engine(scene, policy, scene["margin"], semantic=scene["semantic"])
    flipped = {**scene, "masks": scene["masks"][:, :, ::-1].copy()}
    other, _ = engine(flipped, policy, scene["margin"], semantic=scene["semantic"][:, ::-1].copy())
    assert np.array_equal(other[:, ::-1], owner)


@quick
@given(scenes(), policies(), st.integers(0, 6))
def test_an_instance_that_overlaps_nothing_changes_nothing_else(scene, policy, position):
    owner, _ = engine(scene, policy, scene["margin"])
    n = len(scene["masks"])
    position = min(position, n)
    alone = ~scene["masks"].any(axis=0)
    keep = np.delete(np.arange(n + 1), position)
    margin = np.ones((n + 1, n + 1), dtype=np.float32)
    margin[np.ix_(keep, keep)] = scene["margin"]
    larger = {
        "masks": np.insert(scene["masks"], position, alone, axis=0),
        "scores": np.insert(scene["scores"], position, np.float32(0.65)),
        "labels": np.insert(scene["labels"], position, 1),
    }
    other, _ = engine(larger, policy, margin)
    renamed = np.append(np.insert(np.arange(n), position, -1), -1)[other]
    assert np.array_equal(renamed, owner)


@quick
@given(scenes(), policies())
def test_disjoint_masks_need_no_order(scene, policy):
    taken = np.zeros(SIZE, dtype=bool)
    for mask in scene["masks"]:
        mask &= ~taken
        taken |= mask
    for key in ("min_visible", "post_min_visible"):
        if getattr(policy, key) == 1.0:  # nothing is more than fully visible
            policy = replace(policy, **{key: 0.5})
    owner, _ = engine(scene, policy, scene["margin"])
    expected = np.full(SIZE, -1)
    for i in ranking(scene["scores"], policy.conf_thr):
        expected[scene["masks"][i]] = i
    assert np.array_equal(owner, expected)
