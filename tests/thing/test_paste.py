"""Pasting soft masks, against grid_sample over every box (the convention of detectron2)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from panoptic_occ.thing.paste import paste_masks, place_soft
from scripts.benchmark import reference
from scripts.benchmark.checks import same_masks
from scripts.benchmark.inputs import Detections


@settings(deadline=None, max_examples=100)
@given(seed=st.integers(0, 10_000), height=st.integers(5, 60), width=st.integers(5, 60))
def test_equals_grid_sample(seed: int, height: int, width: int) -> None:
    """Boxes inside, across the edges, wholly outside, thinner than a pixel, and of size zero."""
    rng = np.random.default_rng(seed)
    corner, extent = rng.uniform(-20, 60, (6, 2)), rng.choice([0, 0.3, 1, 9.5, 60], (6, 2))
    boxes = torch.from_numpy(np.concatenate([corner, corner + extent], axis=1)).float()
    probs, size = torch.from_numpy(rng.random((6, 28, 28))).float(), (height, width)
    things = Detections(boxes, probs, torch.ones(6), torch.zeros(6, dtype=torch.int64), size)
    same_masks(paste_masks(probs, boxes, size), reference.paste(probs, boxes, size), things)


def box_by_box(probs: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """(N,H,W): two matrix products over the whole image for every box, the weights written out cell by cell."""
    cell = torch.arange(probs.shape[-1])
    soft = []
    for prob, (x0, y0, x1, y1) in zip(probs, boxes, strict=True):
        sides = []
        for pixels, low, high in ((size[0], y0, y1), (size[1], x0, x1)):
            centre = torch.arange(pixels) + 0.5
            position = (centre - low) / max(high - low, torch.tensor(1e-6)) * len(cell) - 0.5
            weight = (1 - (position[:, None] - cell).abs()).clamp(min=0)
            sides.append(weight * ((centre >= low) & (centre <= high))[:, None])
        soft.append(sides[0] @ prob @ sides[1].T)
    return torch.stack(soft)


@settings(deadline=None, max_examples=30, derandomize=True)
@given(seed=st.integers(0, 10_000), height=st.integers(1, 50), width=st.integers(1, 50), cells=st.integers(1, 30))
def test_equals_whole_products(seed: int, height: int, width: int, cells: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    boxes = torch.rand((7, 4), generator=generator) * 80 - 15  # also turned inside out, touching and far outside
    boxes[:3] = boxes[:3].round()
    boxes[1, 2:] = boxes[1, :2] + 0.25
    probs = (torch.rand((7, cells, cells), generator=generator) * 4).round() / 4
    soft = box_by_box(probs, boxes, (height, width))
    for threshold in (0.5, 0.3, 0.9):
        masks = paste_masks(probs, boxes, (height, width), threshold).dense()
        certain = (soft - threshold).abs() > 1e-6  # a product may round in another order
        assert torch.equal(masks[certain], (soft >= threshold)[certain])


def test_mixed_precision_and_gradients_change_nothing() -> None:
    generator = torch.Generator().manual_seed(0)
    probs = torch.rand((3, 28, 28), generator=generator)
    boxes = torch.tensor([[1.3, 2.1, 40.7, 30.2], [5.0, 5.0, 33.0, 33.0], [-4.0, 8.5, 20.0, 61.0]])
    expected = paste_masks(probs, boxes, (50, 60)).pixels
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(paste_masks(probs, boxes, (50, 60)).pixels, expected)
    assert torch.equal(paste_masks(probs.requires_grad_(), boxes.requires_grad_(), (50, 60)).pixels, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_soft_values_are_read_as_masks_are(dtype: torch.dtype) -> None:
    values = torch.rand((9, 9), generator=torch.Generator().manual_seed(1)).to(dtype).requires_grad_()
    box = torch.tensor([3.2, 1.7, 21.4, 16.9])
    placed = place_soft(values, box, (slice(0, 20), slice(2, 25)))
    assert placed.dtype == dtype
    placed.sum().backward()
    assert values.grad is not None and (values.grad > 0).all()
    mask = paste_masks(values.detach()[None], box[None], (20, 25), 0.4)
    (window, crop) = next(iter(mask))
    assert torch.equal(place_soft(values, box, window).float() >= 0.4, crop)


def test_full_mask_fills_its_box() -> None:
    masks = paste_masks(torch.ones(1, 28, 28), torch.tensor([[2.0, 3.0, 7.0, 5.0]]), (8, 10)).dense()[0]
    expected = torch.zeros(8, 10, dtype=torch.bool)
    expected[3:5, 2:7] = True
    assert torch.equal(masks, expected)


def test_threshold_is_inclusive() -> None:
    boxes = torch.tensor([[0.0, 0.0, 4.0, 4.0]])
    half = torch.full((1, 4, 4), 0.5)
    assert paste_masks(half, boxes, (4, 4)).area.tolist() == [16]
    assert paste_masks(half - 1e-3, boxes, (4, 4)).area.tolist() == [0]


def test_boxes_outside_thin_or_without_number_give_empty_masks() -> None:
    boxes = torch.tensor(
        [[20.0, 0.0, 30.0, 5.0], [-9.0, -9.0, -1.0, -1.0], [2.6, 0.0, 3.4, 5.0], [float("nan"), 0.0, 4.0, 4.0]]
    )
    masks = paste_masks(torch.ones(4, 28, 28), boxes, (10, 10))
    assert masks.area.tolist() == [0, 0, 0, 0]
    assert masks.dense().shape == (4, 10, 10)


def test_no_masks() -> None:
    assert len(paste_masks(torch.zeros(0, 28, 28), torch.zeros(0, 4), (5, 5))) == 0
