"""Claims and suppressed detections in the fusion, by hand; ``test_literal`` has the random ones."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from helpers.small_images import areas, ask, detections, fused, run, statuses, strip
from panoptic_occ.fusion.policy import FusionPolicy
from panoptic_occ.occlusion.banet import AppearanceOrder
from panoptic_occ.structures.masks import MaskCrops
from panoptic_occ.testing import toy_categories

MASKS = strip(10, range(6), range(2, 10))  # 6 and 8 px, 4 in common
HALF = FusionPolicy(max_occluded=0.5)


def claims(*pixels: Any, width: int = 10) -> MaskCrops:
    return MaskCrops.from_dense(strip(width, *pixels))


@pytest.mark.parametrize(("max_occluded", "kept"), [(0.25, True), (0.2, False)])
def test_thresholds_compare_with_the_whole_mask(max_occluded: float, kept: bool) -> None:
    mine = claims(range(4), range(4, 10))  # shares hidden: 2/6 and 2/8
    panoptic = run(MASKS, FusionPolicy(max_occluded=max_occluded), claims=mine)
    assert areas(panoptic) == [0, 6 if kept else 0]
    assert [(record.area, record.free) for record in panoptic.records] == [(6, 4), (8, 6)]
    assert areas(run(MASKS, FusionPolicy(min_visible=0.75 if kept else 0.74), claims=mine)) == [0, 0 if kept else 6]


def test_pixels_that_a_rejected_instance_claims_stay_free() -> None:
    panoptic = run(MASKS, HALF, claims=claims(range(2), range(4, 10)))
    assert panoptic.ids.tolist() == [[0, 0, 0, 0, 1, 1, 1, 1, 1, 1]]
    assert statuses(panoptic) == ["occluded", "kept"]


def test_claims_may_be_cropped_differently_or_be_empty() -> None:
    parts = [torch.zeros(1, 10, dtype=torch.bool), MASKS[1]]
    panoptic = run(MASKS, HALF, claims=MaskCrops.from_crops(parts, [(0, 0), (0, 0)], (1, 10)))
    assert areas(panoptic) == [0, 8] and panoptic.records[0].status == "occluded"


def test_only_claimed_pixels_are_reclaimed() -> None:
    panoptic = run(MASKS, HALF, above=[(1, 0)], claims=claims(range(6), range(4, 10)))
    assert areas(panoptic) == [4, 6] and panoptic.records[1].reclaimed == 2


def test_pixels_of_the_same_class_count_in_the_whole_mask() -> None:
    mine, policy = claims(range(6), range(6, 10)), FusionPolicy(same_class_thr=0.5)
    assert areas(run(MASKS, policy, labels=[1, 2], claims=mine)) == [6, 4]
    panoptic = run(MASKS, policy, labels=[1, 1], claims=mine)
    assert areas(panoptic) == [6, 0]
    assert (panoptic.records[1].status, panoptic.records[1].blocker) == ("same_class", 0)


def test_the_owner_of_lost_pixels_is_named() -> None:
    panoptic = run(MASKS, HALF, claims=claims(range(6), [6]))
    assert (panoptic.records[1].status, panoptic.records[1].blocker) == ("occluded", 0)


def test_a_repetition_is_left_out_without_a_trace() -> None:
    masks = strip(10, range(6), range(7), range(5, 10))
    panoptic = run(masks, FusionPolicy(), above=[(1, 0)], duplicate_of=torch.tensor([-1, 0, -1]))
    assert areas(panoptic) == [6, 0, 4]
    assert [(r.status, r.blocker) for r in panoptic.records] == [("kept", None), ("duplicate", 0), ("kept", None)]


def test_a_repetition_of_a_rejected_instance_is_left_out_too() -> None:
    masks, repeats = strip(10, range(6), range(3), range(6)), torch.tensor([-1, -1, 0])
    panoptic = run(masks, FusionPolicy(max_occluded=0.4), order=[1, 0, 2], duplicate_of=repeats)
    assert statuses(panoptic) == ["occluded", "kept", "duplicate"]


def test_low_scores_and_empty_masks_keep_their_status() -> None:
    masks, repeats = strip(10, range(6), [], range(6)), torch.tensor([-1, 0, 0])
    panoptic = run(masks, FusionPolicy(conf_thr=0.7), scores=[0.9, 0.75, 0.6], duplicate_of=repeats)
    assert statuses(panoptic) == ["kept", "empty", "low_score"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"claims": claims(range(6))}, r"relation.claims has 1 masks of an image of \(1, 10\), needs 2 of"),
        (
            {"claims": claims(range(6), [2], width=9)},
            r"relation.claims has 2 masks of an image of \(1, 9\)",
        ),
        ({"duplicate_of": torch.full((3,), -1)}, r"relation.duplicate_of has shape \(3,\), needs \(2,\)"),
    ],
)
def test_another_number_or_size_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run(MASKS, FusionPolicy(), **fields)


@pytest.mark.parametrize("resolve", ["order", "sequential", "atoms"])
def test_pixels_given_to_a_duplicate_go_to_what_it_repeats(resolve: Any) -> None:
    """Pixels 0-7 (score .9) and 3-10 (score .8) share 5/8 of both, in the colour of the second, the duplicate."""
    instances = detections(strip(12, range(8), range(3, 11)), [0.9, 0.8], [0, 0])
    image = torch.zeros(3, 1, 12, dtype=torch.uint8)
    image[0, 0, :3], image[1, 0, 3:] = 200, 200
    order = AppearanceOrder(in_channels=1, categories=toy_categories(), resolve=resolve)
    policy = FusionPolicy(conf_thr=0.5, max_occluded=0.5, duplicate_thr=0.5)
    panoptic = fused(instances, ask(order, instances, image=image), policy)
    assert [(record.status, record.final) for record in panoptic.records] == [("kept", 8), ("duplicate", 0)]
