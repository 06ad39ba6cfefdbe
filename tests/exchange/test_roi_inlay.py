"""RoIInlay: the oracles R1-R5, against ``grid_sample`` and RoIAlign, and its gradient."""

from __future__ import annotations

import pytest
import torch
from jaxtyping import Float
from torch import Tensor
from torchvision.ops import roi_align

from helpers.aggregation import dense_inlay
from panoptic_occ.exchange.roi_inlay import roi_inlay


def strip(
    rois: list[list[float]],
    crops: list[list[float]],
    width: int,
    aligned: bool = True,
    weights: list[list[float]] | None = None,
) -> list[float]:
    """A one-dimensional inlay: rows of one pixel, all values of a crop the same down its bins."""
    m = len(crops[0])
    boxes = torch.tensor([[0.0, x0, 0.0, x1, 1.0] for x0, x1 in rois])
    values = torch.tensor(crops, dtype=torch.float32)[:, None, None, :].expand(-1, 1, m, -1)
    shares = None if weights is None else torch.tensor(weights)[:, None, :].expand(-1, m, -1)
    inlay = roi_inlay(values, boxes, (1, 1, width), 1.0, aligned, shares)
    return [round(v, 5) for v in inlay[0, 0, 0].tolist()]


def random_boxes(count: int, images: int, height: int, width: int, stride: float = 4.0) -> Float[Tensor, "n 5"]:
    low = torch.rand(count, 2) * torch.tensor([width, height]) * 0.8
    high = low + torch.rand(count, 2) * (torch.tensor([width, height]) - low)
    return torch.cat([torch.randint(0, images, (count, 1)), torch.cat([low, high], 1) * stride], dim=1)


def test_r1_ramp_aligned_and_legacy() -> None:
    assert strip([[0, 4]], [[1, 3]], 5) == [1, 1.5, 2.5, 3, 0]
    assert strip([[0, 4]], [[1, 3]], 5, aligned=False) == [1, 1, 2, 3, 3]


def test_r2_overlap_is_the_mean() -> None:
    assert strip([[0, 4], [2, 6]], [[1, 3], [4, 6]], 6) == [1, 1.5, 3.25, 3.75, 5.5, 6]


def test_r3_constant_crops_leave_no_hole() -> None:
    torch.manual_seed(0)
    boxes = random_boxes(12, 2, 20, 30)
    inlay = roi_inlay(torch.full((12, 3, 7, 7), 5.0), boxes, (2, 20, 30))
    covered = torch.zeros(2, 20, 30, dtype=torch.bool)
    y, x = torch.arange(20) + 0.5, torch.arange(30) + 0.5
    for image, x0, y0, x1, y1 in (boxes / torch.tensor([1, 4, 4, 4, 4])).tolist():
        covered[int(image)] |= ((y >= y0) & (y < y1))[:, None] & ((x >= x0) & (x < x1))
    assert 0 < covered.sum() < covered.numel()
    assert torch.allclose(inlay, torch.where(covered, 5.0, 0.0)[:, None].expand(-1, 3, -1, -1), atol=1e-5)


@pytest.mark.parametrize("aligned", [True, False])
def test_r4_narrow_boxes_are_finite_without_a_gap(aligned: bool) -> None:
    crops = torch.arange(14 * 14, dtype=torch.float32).reshape(1, 1, 14, 14)
    for start in (2.0, 2.3, 2.5, 2.9):
        box = torch.tensor([[0, start, 1.0, start + 1, 6.0]])
        inlay = roi_inlay(crops + 1, box, (1, 8, 8), 1.0, aligned)
        assert torch.isfinite(inlay).all()
        columns = inlay[0, 0].any(dim=0).nonzero().flatten().tolist()
        assert len(columns) in ((1,) if aligned else (1, 2)) and abs(columns[0] + 0.5 * aligned - start) <= 1
        rows = inlay[0, 0].any(dim=1).nonzero().flatten().tolist()
        assert rows == list(range(1, 6 + (not aligned)))


def test_a_legacy_box_is_at_least_one_pixel_wide_as_in_roi_align() -> None:
    assert strip([[2, 2.2]], [[1, 3]], 5, aligned=False) == [0, 0, 1, 3, 0]


def test_a_box_without_extent_or_outside_covers_nothing() -> None:
    boxes = torch.tensor([[0, 8.0, 8.0, 8.0, 20.0], [0, 200.0, 200.0, 240.0, 240.0], [0, -80.0, -80.0, -40.0, -40.0]])
    inlay = roi_inlay(torch.ones(3, 2, 14, 14), boxes, (1, 10, 10))
    assert torch.equal(inlay, torch.zeros(1, 2, 10, 10))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("aligned", [True, False])
def test_r5_gradcheck(aligned: bool, weighted: bool) -> None:
    torch.manual_seed(1)
    boxes = torch.cat([random_boxes(3, 2, 5, 6), torch.tensor([[1, 0.0, 0.0, 24.0, 20.0]])])
    leaves = [torch.randn(4, 2, 3, 3, dtype=torch.float64, requires_grad=True)]
    if weighted:
        leaves.append(torch.rand(4, 3, 3, dtype=torch.float64, requires_grad=True))
        totals = roi_inlay(torch.ones_like(leaves[0]), boxes, (2, 5, 6), 4.0, aligned, leaves[1])
        assert (totals == 1).any() and ((totals > 0) & (totals < 1)).any()  # where it divides, and where it does not
    assert torch.autograd.gradcheck(lambda c, *w: roi_inlay(c, boxes, (2, 5, 6), 4.0, aligned, *w), leaves)


@pytest.mark.parametrize("weighted", [False, True])
def test_equals_the_definition(weighted: bool) -> None:
    torch.manual_seed(2)
    boxes, crops = random_boxes(25, 3, 21, 34).double(), torch.randn(25, 4, 14, 14, dtype=torch.float64)
    weights = torch.rand(25, 14, 14, dtype=torch.float64) if weighted else None
    inlay = roi_inlay(crops, boxes, (3, 21, 34), 4.0, weights=weights)
    assert torch.allclose(inlay, dense_inlay(crops, boxes, (3, 21, 34), 4.0, weights), atol=1e-5)


class TestWeights:
    ROIS, CROPS = [[0.0, 4.0], [2.0, 6.0]], [[1.0, 3.0], [4.0, 6.0]]  # R2

    @pytest.mark.parametrize(
        ("weights", "expected"),
        [
            ([[1, 1], [1, 1]], [1, 1.5, 3.25, 3.75, 5.5, 6]),  # R2
            ([[1, 1], [0, 0]], [1, 1.5, 2.5, 3, 0, 0]),  # the second one's zeros do not halve the first
            ([[0.5, 0.5], [0, 0]], [0.5, 0.75, 1.25, 1.5, 0, 0]),  # half of an instance is not made whole
            ([[0.5, 0.5], [0.25, 0.25]], [0.5, 0.75, 2.25, 2.625, 1.375, 1.5]),  # 3/4 in sum: .5 a + .25 b
            ([[1, 1], [0.25, 0.25]], [1, 1.5, 2.8, 3.3, 1.375, 1.5]),  # (a + .25 b) / 1.25
            ([[0, 1], [0, 1]], [0, 0.75, 2.25, 3.6, 4.5, 6]),  # in the fourth pixel (3 + .25 * 6) / 1.25
        ],
    )
    def test_by_hand(self, weights: list[list[float]], expected: list[float]) -> None:
        assert strip(self.ROIS, self.CROPS, 6, weights=weights) == pytest.approx(expected, abs=1e-5)

    @pytest.mark.parametrize("aligned", [True, False])
    def test_ones_are_the_plain_mean_and_zeros_leave_nothing(self, aligned: bool) -> None:
        torch.manual_seed(4)
        boxes, crops = random_boxes(12, 2, 20, 30), torch.randn(12, 3, 7, 7)
        plain = roi_inlay(crops, boxes, (2, 20, 30), aligned=aligned)
        ones, zeros = (
            roi_inlay(crops, boxes, (2, 20, 30), 4.0, aligned, fill(12, 7, 7)) for fill in (torch.ones, torch.zeros)
        )
        torch.testing.assert_close(ones, plain, rtol=1e-5, atol=1e-5)
        assert torch.equal(zeros, torch.zeros_like(plain))


@pytest.mark.parametrize("aligned", [True, False])
def test_restores_what_roi_align_cropped(aligned: bool) -> None:
    """A map that is linear in x and y comes back unchanged up to half a bin from the border of the box."""
    centre = 0.5 if aligned else 0.0
    y, x = torch.meshgrid(torch.arange(30) + centre, torch.arange(40) + centre, indexing="ij")
    linear = (2 * x - 3 * y)[None, None]
    boxes = torch.tensor([[0, 20.0, 24.0, 120.0, 100.0]])
    crops = roi_align(linear, boxes, 14, spatial_scale=0.25, sampling_ratio=2, aligned=aligned)
    restored = roi_inlay(crops, boxes, (1, 30, 40), 4.0, aligned)
    inside = (slice(None), slice(None), slice(7, 24), slice(6, 29))
    assert torch.allclose(restored[inside], linear[inside], atol=1e-3)


def test_no_boxes_give_zeros_with_a_graph() -> None:
    crops = torch.zeros(0, 3, 14, 14, requires_grad=True)
    inlay = roi_inlay(crops, torch.zeros(0, 5), (2, 4, 5))
    assert inlay.shape == (2, 3, 4, 5) and inlay.requires_grad
    inlay.sum().backward()


@pytest.mark.parametrize("weighted", [False, True])
def test_half_precision_under_autocast_is_summed_in_float32(weighted: bool) -> None:
    torch.manual_seed(3)
    boxes, crops = random_boxes(10, 1, 16, 16), torch.randn(10, 4, 14, 14).bfloat16()
    weights = torch.rand(10, 14, 14) if weighted else None
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = roi_inlay(crops, boxes, (1, 16, 16), weights=weights)
    exact = roi_inlay(crops.double(), boxes, (1, 16, 16), weights=weights)
    assert half.dtype == torch.bfloat16
    assert (half.double() - exact).abs().max() <= exact.abs().max() * 2**-8
    assert torch.allclose(roi_inlay(crops.float(), boxes, (1, 16, 16), weights=weights).double(), exact, atol=1e-5)
