"""Pasting soft masks, against grid_sample over the whole image (the convention of detectron2)."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from panoptic_occ.thing.paste import paste_masks


def literal_paste(probs: Tensor, boxes: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """(N,H,W) sampled probabilities, and whether a pixel's centre lies in the box."""
    height, width = size
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    sampled, inside = [], []
    for prob, (x0, y0, x1, y1) in zip(probs, boxes.tolist(), strict=True):
        grid = torch.stack([(x - x0) / (x1 - x0) * 2 - 1, (y - y0) / (y1 - y0) * 2 - 1], dim=-1)
        sampled.append(F.grid_sample(prob[None, None], grid[None], align_corners=False, padding_mode="zeros")[0, 0])
        inside.append((x >= x0) & (x <= x1) & (y >= y0) & (y <= y1))
    return torch.stack(sampled), torch.stack(inside)


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10_000), height=st.integers(5, 60), width=st.integers(5, 60))
def test_equals_grid_sample(seed: int, height: int, width: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand((6, 4), generator=generator) * 70 - 10
    boxes = torch.cat([torch.minimum(corners[:, :2], corners[:, 2:]), torch.maximum(corners[:, :2], corners[:, 2:])], 1)
    boxes[:, 2:] += 0.5
    probs = torch.rand((6, 28, 28), generator=generator)
    sampled, inside = literal_paste(probs, boxes, (height, width))
    masks = paste_masks(probs, boxes, (height, width)).dense()
    certain = (sampled - 0.5).abs() > 1e-4
    assert torch.equal(masks[certain], ((sampled >= 0.5) & inside)[certain])
    # outside its box a sampled probability stays below one half, so cutting the mask there loses nothing
    assert not (((sampled >= 0.5) & ~inside) & certain).any()


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
