"""RoIAlign over a pyramid."""

from __future__ import annotations

import pytest
import torch
from torchvision.ops import MultiScaleRoIAlign, roi_align

from panoptic_occ.thing.pooling import PyramidRoIAlign, sample_rois


def pyramid(channels: int = 3, size: int = 256) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    levels = {str(k): torch.randn(2, channels, size // 2 ** (k + 2), size // 2 ** (k + 2)) for k in range(4)}
    return levels | {"pool": torch.randn(2, channels, size // 64, size // 64)}


def test_not_aligned_equals_torchvision() -> None:
    features = pyramid()
    boxes = [
        torch.tensor([[3.0, 4.0, 40.0, 60.0], [0.0, 0.0, 250.0, 250.0]]),
        torch.tensor([[10.0, 10.0, 130.0, 125.0]]),
    ]
    reference = MultiScaleRoIAlign(["0", "1", "2", "3"], 7, 2)(features, boxes, [(256, 256)] * 2)
    assert torch.allclose(PyramidRoIAlign(7, 2, aligned=False)(features, boxes), reference, atol=1e-5)


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
        out = function(feature, rois, 7, spatial_scale=0.25, sampling_ratio=ratio, aligned=aligned)
        (out * weight).sum().backward()
        outputs.append(out.detach())
        gradients.append(feature.grad)
    assert torch.allclose(*outputs, atol=1e-5)
    assert torch.allclose(*gradients, atol=1e-4)  # type: ignore[arg-type]


def test_no_boxes() -> None:
    pooled = PyramidRoIAlign(7)(pyramid(), [torch.zeros(0, 4), torch.zeros(0, 4)])
    assert pooled.shape == (0, 3, 7, 7)
