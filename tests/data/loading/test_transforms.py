"""Resize, flip and crop: image, masks, map, boxes and relations stay in step."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from torchvision import tv_tensors
from torchvision.transforms import v2

from helpers.samples import assert_same, make_sample
from panoptic_occ.common.errors import ConfigError
from panoptic_occ.data.loading.transforms import EvalTransform, Grid, TrainTransform, resized_size
from panoptic_occ.structures.masks import MaskCrops, PairStats
from panoptic_occ.structures.panoptic_map import PanopticMap, Segment
from panoptic_occ.structures.relation import GroundTruthRelation
from panoptic_occ.structures.sample import Sample
from panoptic_occ.structures.target import Target

SAMPLE = make_sample()
SIZE = (37, 53)
SCALE = {"scale": [0.5, 2.0]}
SAME: dict[str, Any] = {"short_edge": [37], "max_edge": 100}


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
    assert_same(TrainTransform(**SAME, flip=0)(SAMPLE, 3), SAMPLE)
    assert_same(TrainTransform(scale=[1, 1], flip=0)(SAMPLE, 3), SAMPLE)
    assert_same(EvalTransform(37, 100)(SAMPLE), SAMPLE)


def pixel_below(old: int, new: int) -> np.ndarray:
    """The pixel under the centre of each of ``new`` pixels on the same length."""
    return np.floor((np.arange(new) + 0.5) * old / new).astype(int)


@pytest.mark.parametrize("crop", [None, (14, 16), (0.3, 0.7), (200, 9)])
@pytest.mark.parametrize("size", [SAME, SCALE, {"short_edge": [19, 61], "max_edge": 90}])
@pytest.mark.parametrize("seed", range(8))
def test_everything_shows_the_pixels_of_one_window(seed: int, size: dict[str, Any], crop: tuple[float, float]) -> None:
    """Against the dense originals, resized by the pixel under each centre, flipped and searched for the window."""
    sample, flip = make_sample(seed=seed), seed % 2
    before = sample.annotations
    whole = TrainTransform(**size, flip=flip)(sample, seed)
    out = TrainTransform(**size, flip=flip, crop=crop)(sample, seed)
    high, wide = whole.image.shape[1:]
    image = v2.functional.resize(tv_tensors.Image(sample.image), [high, wide])
    assert torch.equal(whole.image, image.flip(2) if flip else image)
    # the window, found by the image alone
    height, width = out.image.shape[1:]
    places = [(y, x) for y in range(high - height + 1) for x in range(wide - width + 1)]
    ((top, left),) = (
        (y, x) for y, x in places if torch.equal(whole.image[:, y : y + height, x : x + width], out.image)
    )
    rows = pixel_below(SIZE[0], high)[top : top + height]
    columns = pixel_below(SIZE[1], wide)[:: -1 if flip else 1][left : left + width]
    masks = before.masks.dense().numpy()[:, rows][:, :, columns]
    ids = before.panoptic.ids.numpy()[rows][:, columns]
    kept = np.flatnonzero(masks.any(axis=(1, 2)))
    after = out.annotations
    assert out.image.is_contiguous() and out.original_size == SIZE and after.masks.size == (height, width)
    assert np.array_equal(after.panoptic.ids.numpy(), ids)
    assert np.array_equal(after.masks.dense().numpy(), masks[kept])
    assert after.instance_ids.tolist() == (kept + 1000).tolist()
    assert torch.equal(after.labels, before.labels[kept])
    for box, mask in zip(after.boxes.tolist(), masks[kept], strict=True):
        ys, xs = np.nonzero(mask)
        assert box == [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
    areas = {segment.id: int((ids == segment.id).sum()) for segment in before.panoptic.segments}
    assert after.panoptic.segments == tuple(
        replace(s, area=areas[s.id]) for s in before.panoptic.segments if areas[s.id]
    )
    relation = before.relation[torch.from_numpy(kept)]
    meet = torch.from_numpy((masks[kept, None] & masks[None, kept]).any(axis=(2, 3)))
    if crop is not None:  # a pair that was parted by the crop counts no more; all else is that of the original image
        relation = replace(relation, inter=relation.inter * meet, visible=relation.visible * meet)
    assert_same(after.relation, relation)


def sizes(count: int = 300, **settings: Any) -> list[tuple[int, ...]]:
    transform = TrainTransform(**settings)
    return [tuple(transform(SAMPLE, seed).image.shape[1:]) for seed in range(count)]


def test_factors_are_spread_evenly_between_the_limits() -> None:
    drawn = sizes(**SCALE)
    assert all(abs(height / 37 - width / 53) <= 0.5 / 37 + 0.5 / 53 for height, width in drawn)  # one factor for both
    widths = np.array([width for _, width in drawn])
    assert 26 <= widths.min() < 30 and 102 < widths.max() <= 106
    counts, _ = np.histogram(widths, bins=[26, 46, 66, 86, 107])
    assert counts.min() > 45  # 75 expected, four standard deviations are 30
    for height, width in sizes(**SCALE, crop=[30, 40]):  # as large as the crop or as the image
        assert height <= 30 and width <= 40 and (height == 30 or width < 44) and (width == 40 or height < 31)


def test_one_length_is_drawn() -> None:
    heights = [height for height, _ in sizes(60, short_edge=[20, 30, 45], max_edge=100)]
    assert set(heights) == {20, 30, 45} and min(heights.count(h) for h in (20, 30, 45)) > 8
    assert set(sizes(3, scale=[2, 2])) == {(74, 106)} and set(sizes(3, scale=[0.01, 0.01])) == {(1, 1)}
    assert set(sizes(9, **SCALE, resize=False)) == {SIZE}


def test_flip_probability() -> None:
    sample, transform = make_sample((8, 9), n=1), TrainTransform([8], 9, flip=0.25)
    flipped = sum(not torch.equal(transform(sample, seed).image, sample.image) for seed in range(800))
    assert abs(flipped / 800 - 0.25) < 0.06  # four standard deviations


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
    transform = TrainTransform([20, 30, 45], 100, crop=(0.6, 0.6))
    torch.manual_seed(1)
    state = torch.random.get_rng_state()
    first = transform(SAMPLE, 2**63 - 1)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(2)
    assert_same(transform(SAMPLE, 2**63 - 1), first)
    assert any(transform(SAMPLE, seed).image.shape != first.image.shape for seed in range(5))


def test_an_image_without_instances_or_without_target() -> None:
    empty = make_sample(n=0)
    out = TrainTransform([20], 100, crop=(8, 8))(empty, 0).annotations
    assert len(out.masks) == 0 and out.boxes.shape == (0, 4) and out.relation.inter.shape == (0, 0)
    assert TrainTransform([20], 100)(replace(empty, target=None), 0).target is None


def test_evaluation_resizes_only_the_image() -> None:
    out = EvalTransform(20, 100)(SAMPLE)
    assert out.image.shape == (3, 20, 29) and out.target is SAMPLE.target and out.original_size == SIZE


def test_nearest_grid_compares_pixel_centres() -> None:
    grid = Grid.of((3, 2), (6, 3), False, None)
    assert grid.rows.tolist() == [0, 0, 1, 1, 2, 2]
    assert grid.columns.tolist() == [int((i + 0.5) * 2 / 3) for i in range(3)]


def test_lists_of_hydra_are_accepted() -> None:
    config = OmegaConf.create({"short_edge": [20, 30], "crop": [0.5, 0.5], "scale": [0.5, 2.0]})
    assert TrainTransform(config.short_edge, 100, crop=config.crop) == TrainTransform((20, 30), 100, crop=(0.5, 0.5))
    assert TrainTransform(scale=config.scale) == TrainTransform(scale=(0.5, 2.0))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, r"set short_edge and max_edge, like \[800\] and 1333, or scale"),
        ({"short_edge": [20]}, "set short_edge and max_edge"),
        ({"short_edge": [20, 60], "max_edge": 50}, "max_edge: 50 is less than short_edge 60"),
        ({"scale": [2.0, 0.5]}, r"scale: \[2.0, 0.5\] is not usable; .* low <= high"),
        ({**SCALE, "short_edge": [20], "max_edge": 30}, r"together with short_edge=\[20\].*set scale=null"),
    ],
)
def test_bad_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TrainTransform(**settings)
