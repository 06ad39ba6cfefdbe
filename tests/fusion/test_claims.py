"""Claims and suppressed detections in the fusion: hand-checked cases and a literal loop over dense maps."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from panoptic_occ.fusion.engine import fuse
from panoptic_occ.fusion.policy import FusionPolicy
from panoptic_occ.occlusion.banet import AppearanceOrder
from panoptic_occ.occlusion.base import Context
from panoptic_occ.structures.instances import InstanceSet
from panoptic_occ.structures.masks import MaskCrops, PairStats
from panoptic_occ.structures.relation import Relation

SIZE = (5, 6)
SHARES = (0.0, 0.2, 0.25, 0.4, 0.5, 0.6, 0.75, 1.0)
quick = settings(max_examples=120, deadline=None, derandomize=True)


def detections(masks, labels=None):
    n = len(masks)
    labels = torch.arange(n) if labels is None else torch.tensor(labels)
    return InstanceSet(MaskCrops.from_dense(masks), torch.zeros(n, 4), torch.linspace(0.9, 0.6, n), labels)


def strip(*spans, width=10):
    """Masks of one row, each from a half-open span or a list of them."""
    masks = torch.zeros((len(spans), 1, width), dtype=torch.bool)
    for mask, span in zip(masks, spans, strict=True):
        mask[0, slice(*span)] = True
    return masks


def run(masks, policy, labels=None, above=(), **fields):
    instances = detections(masks, labels)
    n = len(instances)
    margin = torch.zeros(n, n)
    for i, j in above:
        margin[i, j] = 1.0
    relation = Relation(margin, margin > 0, antisymmetric=False)
    return fuse(instances, PairStats.of(instances.masks), replace(relation, **fields), None, policy)


def areas(panoptic):
    counted = [0] * len(panoptic.records)
    for segment in panoptic.segments:
        counted[segment.instance] = int((panoptic.ids == segment.id).sum())
    assert [record.final for record in panoptic.records] == counted
    return counted


def statuses(panoptic):
    return [record.status for record in panoptic.records]


class TestClaims:
    masks = strip((0, 6), (2, 10))  # 6 and 8 px, 4 in common

    @pytest.mark.parametrize(("max_occluded", "kept"), [(0.25, True), (0.2, False)])
    def test_thresholds_compare_with_the_whole_mask(self, max_occluded, kept):
        claims = MaskCrops.from_dense(strip((0, 4), (4, 10)))  # shares hidden: 2/6 and 2/8
        panoptic = run(self.masks, FusionPolicy(max_occluded=max_occluded), claims=claims)
        assert areas(panoptic) == [0, 6 if kept else 0]
        assert [record.area for record in panoptic.records] == [6, 8]
        assert [record.free for record in panoptic.records] == [4, 6]
        visible = run(self.masks, FusionPolicy(min_visible=0.75 if kept else 0.74), claims=claims)
        assert areas(visible) == [0, 0 if kept else 6]

    def test_pixels_that_a_rejected_instance_claims_stay_free(self):
        claims = MaskCrops.from_dense(strip((0, 2), (4, 10)))
        panoptic = run(self.masks, FusionPolicy(max_occluded=0.5), claims=claims)
        assert panoptic.ids.tolist() == [[0, 0, 0, 0, 1, 1, 1, 1, 1, 1]]
        assert statuses(panoptic) == ["occluded", "kept"]

    def test_claims_may_be_cropped_differently_or_be_empty(self):
        wide = MaskCrops.from_crops(
            [torch.zeros(1, 10, dtype=torch.bool), strip((2, 10))[0]], [(0, 0), (0, 0)], (1, 10)
        )
        panoptic = run(self.masks, FusionPolicy(max_occluded=0.5), claims=wide)
        assert areas(panoptic) == [0, 8]
        assert panoptic.records[0].status == "occluded"

    def test_only_claimed_pixels_are_reclaimed(self):
        claims = MaskCrops.from_dense(strip((0, 6), (4, 10)))
        panoptic = run(self.masks, FusionPolicy(max_occluded=0.5), above=[(1, 0)], claims=claims)
        assert areas(panoptic) == [4, 6]
        assert panoptic.records[1].reclaimed == 2

    def test_pixels_of_the_same_class_count_in_the_whole_mask(self):
        claims = MaskCrops.from_dense(strip((0, 6), (6, 10)))
        policy = FusionPolicy(same_class_thr=0.5)
        assert areas(run(self.masks, policy, labels=[1, 2], claims=claims)) == [6, 4]
        panoptic = run(self.masks, policy, labels=[1, 1], claims=claims)
        assert areas(panoptic) == [6, 0]
        assert (panoptic.records[1].status, panoptic.records[1].blocker) == ("same_class", 0)

    def test_the_owner_of_lost_pixels_is_named(self):
        claims = MaskCrops.from_dense(strip((0, 6), (6, 7)))
        panoptic = run(self.masks, FusionPolicy(max_occluded=0.5), claims=claims)
        assert (panoptic.records[1].status, panoptic.records[1].blocker) == ("occluded", 0)


class TestDuplicates:
    def test_a_repetition_is_left_out_without_a_trace(self):
        masks = strip((0, 6), (0, 7), (5, 10))
        panoptic = run(masks, FusionPolicy(), above=[(1, 0)], duplicate_of=torch.tensor([-1, 0, -1]))
        assert areas(panoptic) == [6, 0, 4]
        assert [(r.status, r.blocker) for r in panoptic.records] == [("kept", None), ("duplicate", 0), ("kept", None)]

    def test_it_makes_room_even_when_the_other_one_is_rejected(self):
        masks = strip((0, 6), (0, 3), (0, 6))
        order = torch.tensor([1, 0, 2])
        policy = FusionPolicy(max_occluded=0.4)
        panoptic = run(masks, policy, order=order, duplicate_of=torch.tensor([-1, -1, 0]))
        assert statuses(panoptic) == ["occluded", "kept", "duplicate"]

    def test_low_scores_and_empty_masks_keep_their_status(self):
        masks = torch.cat([strip((0, 6)), strip((0, 0)), strip((0, 6))])
        policy = FusionPolicy(conf_thr=0.7)
        panoptic = run(masks, policy, duplicate_of=torch.tensor([-1, 0, 0]))
        assert statuses(panoptic) == ["kept", "empty", "low_score"]


class TestErrors:
    @pytest.mark.parametrize("claims", [strip((0, 6)), strip((0, 6), (2, 9), width=9)])
    def test_claims_of_another_number_or_size(self, claims):
        with pytest.raises(ValueError, match=r"relation.claims has \d masks of an image of \(1, \d+\), needs 2 of"):
            run(strip((0, 6), (2, 10)), FusionPolicy(), claims=MaskCrops.from_dense(claims))

    def test_duplicates_of_another_number(self):
        with pytest.raises(ValueError, match=r"relation.duplicate_of has shape \(3,\), needs \(2,\)"):
            run(strip((0, 6), (2, 10)), FusionPolicy(), duplicate_of=torch.full((3,), -1))


@st.composite
def scenes(draw):
    """Random rectangles with holes, claims that are random parts of them, and margins with ties."""
    n = draw(st.integers(0, 6))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    masks = np.zeros((n, *SIZE), dtype=bool)
    for mask in masks:
        (top, bottom), (left, right) = (sorted(rng.integers(0, side + 1, 2)) for side in SIZE)
        mask[top:bottom, left:right] = rng.random((bottom - top, right - left)) < 0.9
    claims = masks & (rng.random(masks.shape) < draw(st.sampled_from([0.3, 0.8, 1.0])))
    return masks, claims, rng.integers(0, 2, n), rng.integers(-2, 3, (n, n)), rng.permutation(n), rng.random(n) < 0.2


shares = st.sampled_from(SHARES)
policies = st.builds(
    FusionPolicy,
    max_occluded=st.none() | shares,
    min_visible=st.none() | shares,
    same_class_thr=st.none() | shares,
    duplicate_thr=st.none() | shares,
)


@quick
@given(scenes(), policies)
def test_claims_of_whole_masks_change_nothing(scene, policy):
    masks, _, labels, margin, order, _ = scene
    dense = torch.from_numpy(masks)
    above = np.argwhere(margin > 0).tolist()
    fields = {"labels": labels.tolist(), "above": above, "order": torch.from_numpy(order)}
    plain = run(dense, policy, **fields)
    windows = MaskCrops.from_crops(list(dense), [(0, 0)] * len(dense), SIZE)
    for claims in (MaskCrops.from_dense(dense), windows):
        claimed = run(dense, policy, **fields, claims=claims)
        assert torch.equal(claimed.ids, plain.ids)
        assert claimed.segments == plain.segments and claimed.records == plain.records


@quick
@given(scenes(), shares)
def test_with_claims_it_is_the_literal_loop(scene, max_occluded):
    masks, claims, _, margin, order, suppressed = scene
    owner = np.full(SIZE, -1)
    for i in order:
        free = claims[i] & (owner == -1)
        won = np.zeros(SIZE, dtype=bool)
        for j in range(len(masks)):
            if margin[i, j] > 0:
                won |= claims[i] & (owner == j)
        area = masks[i].sum()
        gain = (free | won).sum()
        if suppressed[i] or gain == 0 or (area - gain) / area > max_occluded:
            continue
        owner[free | won] = i
    panoptic = run(
        torch.from_numpy(masks),
        FusionPolicy(max_occluded=max_occluded),
        above=np.argwhere(margin > 0).tolist(),
        order=torch.from_numpy(order),
        claims=MaskCrops.from_dense(torch.from_numpy(claims)),
        duplicate_of=torch.from_numpy(np.where(suppressed, 0, -1)),
    )
    found = np.full(SIZE, -1)
    for segment in panoptic.segments:
        found[panoptic.ids.numpy() == segment.id] = segment.instance
    assert np.array_equal(found, owner)
    assert [record.final for record in panoptic.records] == [(owner == i).sum() for i in range(len(masks))]


@pytest.mark.parametrize("resolve", ["order", "sequential", "atoms"])
def test_pixels_given_to_a_duplicate_go_to_what_it_repeats(resolve: str) -> None:
    """Pixels 0-7 (score .9) and 3-10 (score .8) share 5/8 of both, in the colour of the second, the duplicate."""
    masks = torch.zeros(2, 1, 12, dtype=torch.bool)
    masks[0, 0, :8] = masks[1, 0, 3:11] = True
    image = torch.zeros(3, 1, 12, dtype=torch.uint8)
    image[0, 0, :3], image[1, 0, 3:] = 200, 200
    scores, labels = torch.tensor([0.9, 0.8]), torch.zeros(2, dtype=torch.int64)
    boxes = torch.tensor([[0.0, 0, 8, 1], [3.0, 0, 11, 1]])
    crops = MaskCrops.from_dense(masks)
    stats = PairStats.of(crops)
    instances = InstanceSet(crops, boxes, scores, labels)
    order = AppearanceOrder(in_channels=1, categories=None, resolve=resolve)
    relation = order(instances, stats, Context(image=image))
    policy = FusionPolicy(conf_thr=0.5, max_occluded=0.5, duplicate_thr=0.5)
    fused = fuse(instances, stats, relation, None, policy)
    assert [(record.status, record.final) for record in fused.records] == [("kept", 8), ("duplicate", 0)]
