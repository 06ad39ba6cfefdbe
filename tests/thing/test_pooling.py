"""RoIAlign over a pyramid."""

from __future__ import annotations

import pytest
import torch
from torchvision import ops
from torchvision.ops import MultiScaleRoIAlign

from panoptic_occ.thing.pooling import Grid, PyramidRoIAlign, align_rois, bag_rois, sample_rois


def pyramid(channels: int = 3, size: int = 256) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    levels = {str(k): torch.randn(2, channels, size // 2 ** (k + 2), size // 2 ** (k + 2)) for k in range(4)}
    return levels | {"pool": torch.randn(2, channels, size // 64, size // 64)}


def roi_align(feature: torch.Tensor, rois: torch.Tensor, grid: Grid) -> torch.Tensor:
    """torchvision's own."""
    return ops.roi_align(feature, rois, grid.output_size, grid.spatial_scale, grid.sampling_ratio, grid.aligned)


def test_aligned_samples_a_ramp_at_bin_centres() -> None:
    # level 0 holds the x coordinate of each cell's centre, so a bin must read its own centre
    ramp = ((torch.arange(64) + 0.5) * 4).expand(1, 1, 64, 64)
    features = {str(k): ramp if k == 0 else torch.zeros(1, 1, 8, 8) for k in range(4)}
    pooled = PyramidRoIAlign(4, 2)(features, [torch.tensor([[20.0, 20.0, 60.0, 60.0]])])
    assert torch.allclose(pooled[0, 0, 0], torch.tensor([25.0, 35.0, 45.0, 55.0]), atol=1e-4)


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("ratio", [1, 2])
def test_sampling_equals_roi_align_and_its_gradient(aligned: bool, ratio: int) -> None:
    torch.manual_seed(3)
    corners = torch.rand(40, 4) * 120
    boxes = torch.cat([torch.minimum(corners[:, :2], corners[:, 2:]), torch.maximum(corners[:, :2], corners[:, 2:])], 1)
    boxes[:, 2:] += 4  # a cell or more
    rois = torch.cat([torch.sort(torch.randint(0, 3, (40, 1)), dim=0).values * 2.0, boxes], dim=1)  # images 0, 2, 4
    outputs, gradients = [], []
    weight = torch.randn(40, 6, 7, 7)
    for function in (sample_rois, roi_align):
        feature = torch.randn(5, 6, 32, 32, generator=torch.Generator().manual_seed(1)).requires_grad_()
        out = function(feature, rois, Grid(7, 0.25, ratio, aligned))
        (out * weight).sum().backward()
        outputs.append(out.detach())
        gradients.append(feature.grad)
    assert torch.allclose(*outputs, atol=1e-5)
    assert torch.allclose(*gradients, atol=1e-4)  # type: ignore[arg-type]


def test_no_boxes() -> None:
    pooled = PyramidRoIAlign(7)(pyramid(), [torch.zeros(0, 4), torch.zeros(0, 4)])
    assert pooled.shape == (0, 3, 7, 7)
    assert bag_rois(torch.randn(1, 4, 8, 8), torch.zeros(0, 5), Grid(7, 0.25)).shape == (0, 4, 7, 7)


def any_boxes(count: int, size: float) -> torch.Tensor:
    """Boxes of every kind, sorted by the image they lie in: usual, tiny, on the border, beyond the edge, turned."""
    corners = torch.rand(count, 4) * 1.6 * size - 0.3 * size
    boxes = torch.cat([torch.minimum(corners[:, :2], corners[:, 2:]), torch.maximum(corners[:, :2], corners[:, 2:])], 1)
    boxes[::5, 2:] = boxes[::5, :2] + torch.rand(len(boxes[::5]), 2)  # less than a cell, some less than a bin
    boxes[1::5] = boxes[1::5].clamp(0, size)  # up to the border
    boxes[2::5] = boxes[2::5].round()
    boxes[3] = torch.tensor([0, 0, size, size])
    boxes[4] = torch.tensor([size, size, size, size])
    boxes[6] = boxes[6, [2, 3, 0, 1]]  # no network of ours gives it; it must not read other memory
    return torch.cat([torch.randint(0, 3, (count, 1)).sort(dim=0).values.float(), boxes], dim=1)


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("ratio", [1, 2, 3])
@pytest.mark.parametrize("bins", [1, 7, 14])
def test_bags_equal_roi_align(aligned: bool, ratio: int, bins: int) -> None:
    torch.manual_seed(bins + ratio)
    for height, width, scale in ((32, 32, 0.25), (11, 23, 0.125), (1, 5, 0.25)):
        rois = any_boxes(60, max(height, width) / scale)
        feature = torch.randn(3, 5, height, width)
        grid = Grid(bins, scale, ratio, aligned)
        expected = roi_align(feature, rois, grid)
        for layout in (torch.contiguous_format, torch.channels_last):
            pooled = bag_rois(feature.contiguous(memory_format=layout), rois, grid)
            torch.testing.assert_close(pooled, expected, atol=1e-5, rtol=1e-5)
            assert pooled.is_contiguous(memory_format=torch.channels_last)


def test_gradients_are_sampled_and_all_else_is_read_in_bags(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[str] = []
    for function in (sample_rois, bag_rois):
        name = function.__name__
        monkeypatch.setattr(
            f"panoptic_occ.thing.pooling.{name}",
            lambda *args, _name=name, _function=function, **kwargs: taken.append(_name) or _function(*args, **kwargs),
        )
    rois, feature = torch.tensor([[0.0, 4.0, 4.0, 20.0, 20.0]]), torch.randn(1, 2, 8, 8)
    settings = (Grid(7, 0.25),)
    plain = align_rois(feature, rois, *settings)
    assert taken.pop() == "bag_rois" and not plain.requires_grad
    feature.requires_grad_()
    sampled = align_rois(feature, rois, *settings)
    assert taken.pop() == "sample_rois" and sampled.requires_grad
    with torch.no_grad():
        torch.testing.assert_close(align_rois(feature, rois, *settings), sampled.detach(), atol=1e-5, rtol=0)
    assert taken.pop() == "bag_rois"


def test_not_aligned_a_pyramid_and_its_gradient_equal_torchvision() -> None:
    boxes = [torch.tensor([[3.0, 4, 40, 60], [8, 0, 250, 250]]), torch.tensor([[10.0, 10, 130, 125]])]
    weight = torch.randn(3, 3, 7, 7, generator=torch.Generator().manual_seed(4))
    pooled, gradients = [], []
    for pool in (PyramidRoIAlign(7, 2, aligned=False), MultiScaleRoIAlign(["0", "1", "2", "3"], 7, 2)):
        features = {name: level.requires_grad_() for name, level in pyramid().items()}
        pooled.append(pool(features, boxes, [(256, 256)] * 2))
        (pooled[-1] * weight).sum().backward()
        gradients.append([features[name].grad for name in "0123"])
    torch.testing.assert_close(*pooled, atol=1e-5, rtol=1e-5)
    for gradient, reference in zip(*gradients, strict=True):
        assert (gradient is None) == (reference is None or not reference.any())
        if gradient is not None:
            torch.testing.assert_close(gradient, reference, atol=1e-4, rtol=1e-4)


def test_half_precision_keeps_its_type_and_the_boxes_theirs() -> None:
    ramp = (torch.arange(300) - 256.0).expand(1, 1, 4, 300)  # column x holds x - 256
    box = torch.tensor([[0.0, 1021.0, 4.0, 1027.0, 12.0]])  # bfloat16 would make 1020 and 1024 of its sides
    pooled = align_rois(ramp.bfloat16(), box, Grid(1, 0.25))
    assert pooled.dtype == torch.bfloat16
    assert pooled.item() == pytest.approx(1024 / 4 - 0.5 - 256, abs=0.05)
