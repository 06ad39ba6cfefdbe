"""Masks as crops and their pixel counts, against dense masks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from panoptic_occ.structures import masks as module
from panoptic_occ.structures.masks import MaskCrops, PairStats, intersections, meetings

SIZE = (7, 9)
quick = settings(max_examples=80, deadline=None, derandomize=True)


@st.composite
def crops(draw: st.DrawFn) -> MaskCrops:
    """Loose and tight crops with holes, empty ones and single pixels among them, at the edges of the image too."""
    n = draw(st.integers(0, 6))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    parts, corners = [], []
    for _ in range(n):
        (top, bottom), (left, right) = (sorted(rng.integers(0, side + 1, 2)) for side in SIZE)
        if rng.random() < 0.2:
            bottom, right = min(top + 1, SIZE[0]), min(left + 1, SIZE[1])
        parts.append(torch.from_numpy(rng.random((bottom - top, right - left)) < rng.choice([0.0, 0.4, 0.9, 1.0])))
        corners.append((int(top), int(left)))
    return MaskCrops.from_crops(parts, corners, SIZE)


def dense(masks: MaskCrops) -> np.ndarray:
    """(N, H, W), pixel by pixel."""
    out = np.zeros((len(masks), *masks.size), dtype=bool)
    position = 0
    for i, (top, left, height, width) in enumerate(masks.windows.tolist()):
        for y in range(height):
            for x in range(width):
                out[i, top + y, left + x] = masks.pixels[position]
                position += 1
    assert position == len(masks.pixels)
    return out


@quick
@given(crops())
def test_every_view_of_the_crops_is_the_dense_mask(masks: MaskCrops) -> None:
    expected = dense(masks)
    assert np.array_equal(masks.dense().numpy(), expected)
    assert masks.area.dtype == torch.int64 and masks.area.tolist() == expected.sum(axis=(1, 2)).tolist()
    assert len(list(masks)) == len(masks.arrays()) == len(masks)
    for whole, (window, crop), array in zip(expected, masks, masks.arrays(), strict=True):
        assert np.array_equal(whole[window], crop.numpy()) and np.array_equal(array, crop.numpy())
    assert np.array_equal(dense(MaskCrops.from_dense(torch.from_numpy(expected))), expected)


@quick
@given(crops(), st.data())
def test_a_selection_is_that_of_the_dense_masks(masks: MaskCrops, data: st.DataObject) -> None:
    n = len(masks)
    some = st.lists(st.integers(-n, n - 1), max_size=5) if n else st.just([])
    chosen = data.draw(some | st.just(list(range(n))) | st.just(list(range(n // 2, n))))
    flags = torch.tensor(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)), dtype=torch.bool)
    expected = dense(masks)
    index = np.array(chosen, dtype=int)
    for selected, wanted in (
        (masks[chosen], expected[index]),
        (masks[torch.tensor(chosen)], expected[index]),
        (masks[flags], expected[flags.numpy()]),
    ):
        assert np.array_equal(dense(selected), wanted)
        assert selected.size == masks.size and selected.windows.dtype == torch.int64


def test_neighbours_are_selected_without_a_copy() -> None:
    masks = MaskCrops.from_dense(torch.ones((4, 2, 3), dtype=torch.bool))
    for index in (torch.arange(2), torch.tensor([1, 2]), torch.ones(4, dtype=torch.bool)):
        selected = masks[index]
        assert selected.pixels.untyped_storage().data_ptr() == masks.pixels.untyped_storage().data_ptr()
    assert masks[[1, 0]].pixels.untyped_storage().data_ptr() != masks.pixels.untyped_storage().data_ptr()


@quick
@given(crops(), crops(), st.integers(0, 2**32 - 1))
def test_intersections_are_those_of_the_dense_masks(first: MaskCrops, second: MaskCrops, seed: int) -> None:
    expected = (dense(first)[:, None] & dense(second)[None]).sum(axis=(2, 3)).reshape(len(first), len(second))
    where = np.random.default_rng(seed).random(expected.shape) < 0.6
    inter = intersections(first, second)
    assert inter.dtype == torch.int64 and np.array_equal(inter.numpy(), expected)
    assert np.array_equal(intersections(first, second, torch.from_numpy(where)).numpy(), expected * where)


@quick
@given(crops())
def test_pair_statistics_are_those_of_the_dense_masks(masks: MaskCrops) -> None:
    flat = dense(masks).reshape(len(masks), SIZE[0] * SIZE[1]).astype(int)
    stats = PairStats.of(masks)
    assert np.array_equal(stats.inter.numpy(), flat @ flat.T) and stats.area.tolist() == flat.sum(axis=1).tolist()
    assert torch.equal(stats.significant(0), (stats.inter > 0).fill_diagonal_(False)), "disjoint masks never are"


@quick
@given(crops(), crops())
def test_meetings_are_the_common_rectangles(first: MaskCrops, second: MaskCrops) -> None:
    cover = [
        MaskCrops(torch.ones_like(masks.pixels), masks.windows, masks.size).dense().numpy() for masks in (first, second)
    ]
    met = meetings(first, second)
    assert list(zip(met.first.tolist(), met.second.tolist(), strict=True)) == [
        (i, j) for i, a in enumerate(cover[0]) for j, b in enumerate(cover[1]) if (a & b).any()
    ]
    for i, j, (top, left, bottom, right) in zip(*(part.tolist() for part in met), strict=True):
        rectangle = np.zeros(SIZE, dtype=bool)
        rectangle[top:bottom, left:right] = True
        assert np.array_equal(rectangle, cover[0][i] & cover[1][j])


class TestFormsOfAGpu:
    """The forms that run on other devices, here on CPU tensors."""

    @quick
    @given(crops(), crops())
    def test_they_count_the_same(self, first: MaskCrops, second: MaskCrops) -> None:
        assert torch.equal(module._product(first, second), intersections(first, second))
        lengths = (first.windows[:, 2] * first.windows[:, 3]).tolist()
        assert torch.equal(module._sums(first.pixels, lengths), first.area)

    @pytest.mark.parametrize("block", [1, 5, 63, 64])
    def test_blocks_of_pixels_add_up(self, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
        monkeypatch.setattr(module, "PIXELS_AT_ONCE", block)
        masks = MaskCrops.from_dense(torch.rand((3, *SIZE), generator=torch.Generator().manual_seed(0)) < 0.7)
        assert torch.equal(module._product(masks, masks), PairStats.of(masks).inter)

    def test_counts_are_exact_under_autocast(self) -> None:
        masks = MaskCrops.from_dense(torch.ones((2, 61, 67), dtype=torch.bool))  # 4087 px: no number of bfloat16
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert module._product(masks, masks).tolist() == [[4087, 4087], [4087, 4087]]

    def test_float32_counts_a_block_exactly(self) -> None:
        assert module.PIXELS_AT_ONCE <= 2**24


def test_masks_of_two_images_are_refused() -> None:
    first, second = (MaskCrops.empty(size) for size in ((2, 3), (3, 2)))
    with pytest.raises(ValueError, match=r"images of \(2, 3\) and \(3, 2\) px have no common pixels"):
        intersections(first, second)


@pytest.mark.parametrize(
    ("corner", "shape"), [((-1, 0), (1, 1)), ((0, -1), (1, 1)), ((1, 0), (2, 1)), ((0, 2), (1, 2))]
)
def test_a_crop_that_leaves_the_image_is_refused(corner: tuple[int, int], shape: tuple[int, int]) -> None:
    crop: Tensor = torch.ones(shape, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"crop 0 at .* leaves the 2x3 image"):
        MaskCrops.from_crops([crop], [corner], (2, 3))


def test_boxes_of_crops() -> None:
    dense = torch.zeros(2, 5, 7, dtype=torch.bool)
    dense[0, 1:3, 2:6] = True
    assert MaskCrops.from_dense(dense).boxes.tolist() == [[2, 1, 6, 3], [0, 0, 0, 0]]
