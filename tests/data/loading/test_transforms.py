from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from torchvision import tv_tensors
from torchvision.transforms import v2

from helpers.samples import make_sample, same
from panoptic_occ.common.errors import ConfigError
from panoptic_occ.data.loading.transforms import EvalTransform, Grid, TrainTransform, resized_size
from panoptic_occ.structures.masks import MaskCrops, PairStats
from panoptic_occ.structures.panoptic_map import PanopticMap, Segment
from panoptic_occ.structures.relation import GroundTruthRelation
from panoptic_occ.structures.sample import Sample
from panoptic_occ.structures.target import Target


def flip_seeds(transform: TrainTransform, sample: Sample) -> tuple[int, int]:
    """A seed that leaves the sample alone and one that flips it."""
    kept = [torch.equal(transform(sample, seed).image, sample.image) for seed in range(20)]
    return kept.index(True), kept.index(False)


@pytest.mark.parametrize(
    ("size", "short", "limit", "expected"),
    [  # (height, width) of COCO images at 800/1333, as Detectron2's ResizeShortestEdge gives them
        ((480, 640), 800, 1333, (800, 1067)),
        ((640, 480), 800, 1333, (1067, 800)),
        ((427, 640), 800, 1333, (800, 1199)),
        ((375, 500), 800, 1333, (800, 1067)),
        ((100, 1000), 800, 1333, (133, 1333)),
        ((1000, 100), 800, 1333, (1333, 133)),
        ((1024, 2048), 800, 2048, (800, 1600)),
        ((333, 500), 640, 1333, (640, 961)),
        ((128, 128), 128, 128, (128, 128)),
        ((1, 4000), 800, 1333, (1, 1333)),
    ],
)
def test_resized_size(size: tuple[int, int], short: int, limit: int, expected: tuple[int, int]) -> None:
    assert resized_size(size, short, limit) == expected


def test_no_resize_leaves_the_image_bit_identical() -> None:
    sample = make_sample()
    assert torch.equal(TrainTransform([37], 100, flip=0)(sample, 3).image, sample.image)
    assert torch.equal(EvalTransform(37, 100)(sample).image, sample.image)
    assert same(TrainTransform([37], 100, flip=0)(sample, 3), sample)


def test_one_flip_is_the_numpy_flip_and_two_are_the_identity() -> None:
    sample = make_sample()
    assert sample.target is not None
    transform = TrainTransform([37], 100, flip=1)
    once = transform(sample, 0)
    assert once.target is not None
    assert np.array_equal(once.image, sample.image.numpy()[:, :, ::-1])
    assert np.array_equal(once.target.masks.dense(), sample.target.masks.dense().numpy()[:, :, ::-1])
    assert np.array_equal(once.target.panoptic.ids, sample.target.panoptic.ids.numpy()[:, ::-1])
    left, right = sample.target.boxes[:, 0], sample.target.boxes[:, 2]
    assert torch.equal(once.target.boxes[:, 0], 53 - right) and torch.equal(once.target.boxes[:, 2], 53 - left)
    assert torch.equal(once.target.relation.own, sample.target.relation.own)
    assert same(transform(once, 0), sample)


def test_flip_probability() -> None:
    sample, transform = make_sample((8, 9), n=1), TrainTransform([8], 9, flip=0.25)
    flipped = sum(not torch.equal(transform(sample, seed).image, sample.image) for seed in range(800))
    assert abs(flipped / 800 - 0.25) < 0.06  # four standard deviations


def test_scale_jitter_draws_every_length() -> None:
    sample, transform = make_sample(), TrainTransform([20, 30, 45], 100)
    heights = [transform(sample, seed).image.shape[1] for seed in range(60)]
    assert set(heights) == {20, 30, 45} and min(heights.count(h) for h in (20, 30, 45)) > 8


@pytest.mark.parametrize("short", [19, 30, 61])
def test_resize_equals_torchvision_on_dense_tensors(short: int) -> None:
    sample = make_sample()
    assert sample.target is not None
    out = TrainTransform([short], 200, flip=0)(sample, 0)
    assert out.target is not None
    size = resized_size((37, 53), short, 200)
    image, masks, ids = (
        v2.functional.resize(x, list(size), interpolation=mode)
        for x, mode in (
            (tv_tensors.Image(sample.image), v2.InterpolationMode.BILINEAR),
            (tv_tensors.Mask(sample.target.masks.dense()), v2.InterpolationMode.NEAREST_EXACT),
            (tv_tensors.Mask(sample.target.panoptic.ids), v2.InterpolationMode.NEAREST_EXACT),
        )
    )
    assert torch.equal(out.image, image)
    assert torch.equal(out.target.masks.dense(), masks[masks.flatten(1).any(1)])
    assert torch.equal(out.target.panoptic.ids, ids)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**63 - 1),
    short=st.integers(4, 70),
    limit=st.integers(70, 90),
    crop=st.sampled_from([None, (20, 24), (0.3, 0.7), (200, 9)]),
    height=st.integers(8, 40),
    width=st.integers(8, 40),
)
def test_everything_stays_in_step(
    seed: int, short: int, limit: int, crop: tuple[int, int] | None, height: int, width: int
) -> None:
    sample = make_sample((height, width), seed=seed % 1000)
    out = TrainTransform([short], limit, crop=crop)(sample, seed)
    before, after = sample.target, out.target
    assert before is not None and after is not None
    masks, ids = after.masks.dense().numpy(), after.panoptic.ids.numpy()
    assert tuple(out.image.shape[1:]) == tuple(ids.shape) == after.masks.size and out.image.is_contiguous()
    assert out.original_size == (height, width)
    chosen = after.instance_ids - 1000
    assert torch.equal(after.labels, before.labels[chosen])
    for k, (mask, number) in enumerate(zip(masks, chosen.tolist(), strict=True)):
        ys, xs = np.nonzero(mask)  # instances without pixels are gone, so this is never empty
        assert after.boxes[k].tolist() == [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
        # the pixels that the map gives to an instance are those of its mask that no later instance hides
        hidden = masks[k + 1 :].any(axis=0)
        assert np.array_equal(ids == 100 + number, mask & ~hidden)
    segments = {s.id: s for s in after.panoptic.segments}
    assert set(segments) == set(np.unique(ids)) - {0}
    originals = {s.id: s for s in before.panoptic.segments}
    for number, segment in segments.items():
        assert segment.area == (ids == number).sum() and segment.label == originals[number].label
        if segment.isthing:
            assert segment.instance is not None and chosen[segment.instance] == number - 100
    relation = before.relation[chosen]
    assert torch.equal(after.relation.area, relation.area) and torch.equal(after.relation.pan_area, relation.pan_area)
    meet = torch.from_numpy((masks[:, None] & masks[None]).any(axis=(2, 3))) if len(masks) else torch.zeros(0, 0)
    kept = torch.ones_like(meet) if crop is None else meet
    assert torch.equal(after.relation.inter, relation.inter * kept)
    assert torch.equal(after.relation.own, relation.own * kept)


def test_crop_removes_instances_from_rows_and_columns_of_the_relation_together() -> None:
    # a long bar 0 in row 1; bar 1 in column 2 below it; bar 2 in column 7 above it
    masks = torch.zeros(3, 4, 10, dtype=torch.bool)
    masks[0, 1, :] = masks[1, :, 2] = masks[2, :, 7] = True
    ids = torch.zeros(4, 10, dtype=torch.int64)
    for k in (1, 0, 2):
        ids[masks[k]] = k + 1
    crops = MaskCrops.from_dense(masks)
    own = torch.tensor([[9, 1, 0], [0, 3, 0], [1, 0, 4]])
    relation = GroundTruthRelation(crops.area, torch.tensor([9, 3, 4]), PairStats.of(crops).inter, own)
    segments = tuple(Segment(k + 1, 0, True, int((ids == k + 1).sum()), instance=k) for k in range(3))
    target = Target(crops.boxes, torch.zeros(3).long(), crops, PanopticMap(ids, segments), relation, torch.arange(3))
    columns = torch.arange(10, dtype=torch.uint8).expand(3, 4, 10)
    sample = Sample(columns, 1, "x", (4, 10), target)
    assert relation.matrix(0.1).tolist() == [[-1, 1, 0], [0, -1, -1], [1, -1, -1]]
    seen = set()
    for seed in range(60):
        out = TrainTransform([4], 10, flip=0, crop=(4, 5))(sample, seed)
        assert out.target is not None
        left = int(out.image[0, 0, 0])
        seen.add(left)
        kept, order = ([0, 1], [[-1, 1], [0, -1]]) if left <= 2 else ([0, 2], [[-1, 0], [1, -1]])
        assert out.target.instance_ids.tolist() == kept
        assert out.target.relation.matrix(0.1).tolist() == order
        assert [(s.id, s.instance) for s in out.target.panoptic.segments] == [(k + 1, n) for n, k in enumerate(kept)]
        assert out.target.relation.area.tolist() == [10, 4]  # counts of the original image
    assert seen == set(range(6))


def test_pairs_that_do_not_meet_in_the_crop_are_never_significant() -> None:
    # two L shapes that overlap in the right half only; the crop of the left half keeps both, apart
    masks = torch.zeros(2, 4, 8, dtype=torch.bool)
    masks[0, 0] = masks[1, 3] = True
    masks[:, :, 7] = True
    ids = torch.where(masks[0], 1, torch.where(masks[1], 2, 0))
    crops = MaskCrops.from_dense(masks)
    inter = PairStats.of(crops).inter
    assert inter[0, 1] == 4
    relation = GroundTruthRelation(crops.area, torch.tensor([11, 7]), inter, torch.tensor([[11, 4], [0, 7]]))
    panoptic = PanopticMap(ids, (Segment(1, 0, True, 11), Segment(2, 0, True, 7)))
    target = Target(crops.boxes, torch.zeros(2).long(), crops, panoptic, relation, torch.arange(2))
    sample = Sample(torch.zeros(3, 4, 8, dtype=torch.uint8), 1, "x", (4, 8), target)
    assert relation.matrix(0.1).tolist() == [[-1, 1], [0, -1]]
    seen = set()
    for seed in range(60):
        out = TrainTransform([4], 8, flip=0, crop=(1.0, 0.5))(sample, seed).target
        assert out is not None and len(out.labels) == 2
        together = bool((out.masks.dense()[0] & out.masks.dense()[1]).any())
        seen.add(together)
        expected = [[-1, 1], [0, -1]] if together else [[-1, -1], [-1, -1]]
        assert out.relation.matrix(0.1).tolist() == expected
        assert out.relation.area.tolist() == [11, 11]
    assert seen == {True, False}


def test_crop_windows_reach_every_corner_and_never_leave_the_image() -> None:
    ramp = torch.arange(30, dtype=torch.uint8).view(1, 5, 6).expand(3, 5, 6)
    sample = Sample(ramp, 1, "x", (5, 6))
    corners = {int(TrainTransform([5], 6, flip=0, crop=(4, 4))(sample, s).image[0, 0, 0]) for s in range(200)}
    assert corners == {0, 1, 2, 6, 7, 8}
    assert TrainTransform([5], 6, flip=0, crop=(99, 4))(sample, 0).image.shape == (3, 5, 4)
    assert TrainTransform([5], 6, flip=0, crop=(0.5, 1.0))(sample, 0).image.shape == (3, 3, 6)


def test_same_seed_same_sample_and_global_random_state_is_untouched() -> None:
    sample, transform = make_sample(), TrainTransform([20, 30, 45], 100, crop=(0.6, 0.6))
    torch.manual_seed(1)
    state = torch.random.get_rng_state()
    first = transform(sample, 2**63 - 1)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(2)
    assert same(transform(sample, 2**63 - 1), first)
    assert any(transform(sample, seed).image.shape != first.image.shape for seed in range(5))


def test_an_image_without_instances_or_without_target() -> None:
    empty = make_sample(n=0)
    out = TrainTransform([20], 100, crop=(8, 8))(empty, 0)
    assert out.target is not None
    assert len(out.target.masks) == 0 and out.target.boxes.shape == (0, 4) and out.target.relation.inter.shape == (0, 0)
    bare = Sample(empty.image, 1, "x", (37, 53))
    assert TrainTransform([20], 100)(bare, 0).target is None


def test_evaluation_resizes_only_the_image() -> None:
    sample = make_sample()
    out = EvalTransform(20, 100)(sample)
    assert out.image.shape == (3, 20, 29) and out.target is sample.target and out.original_size == (37, 53)


def test_nearest_grid_compares_pixel_centres() -> None:
    grid = Grid.of((3, 2), (6, 3), False, None)
    assert grid.rows.tolist() == [0, 0, 1, 1, 2, 2]
    assert grid.columns.tolist() == [int((i + 0.5) * 2 / 3) for i in range(3)]


def test_lists_of_hydra_are_accepted() -> None:
    config = OmegaConf.create({"short_edge": [20, 30], "crop": [0.5, 0.5]})
    transform = TrainTransform(config.short_edge, 100, crop=config.crop)
    assert transform == TrainTransform((20, 30), 100, crop=(0.5, 0.5))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"short_edge": []}, r"short_edge: \[\]"),
        ({"short_edge": 800}, r"short_edge: 800 must be a list"),
        ({"short_edge": [0]}, r"short_edge: \[0\]"),
        ({"short_edge": [60], "max_edge": 50}, "max_edge: 50 is less than short_edge 60"),
        ({"flip": 1.5}, "flip: 1.5 is not a probability"),
        ({"crop": [0.5, 20]}, r"crop: \[0.5, 20\]"),
        ({"crop": [0, 20]}, r"crop: \[0, 20\]"),
        ({"crop": [1.2, 0.5]}, r"crop: \[1.2, 0.5\]"),
        ({"crop": [20]}, r"crop: \[20\]"),
    ],
)
def test_bad_settings(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TrainTransform(**{"short_edge": [20], "max_edge": 100, **arguments})  # type: ignore[arg-type]
