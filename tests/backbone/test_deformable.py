"""Deformable convolution against plain convolutions of shifted and interpolated images."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from panoptic_occ.backbone.deformable import DeformableConv


def inner(x: torch.Tensor) -> torch.Tensor:
    """Without the border, where a shifted image reads beyond the edge."""
    return x[..., 3:-3, 3:-3]


def test_version_two_starts_at_random_offsets_and_half_weights_without_them() -> None:
    torch.manual_seed(0)
    layer, x = DeformableConv(4, 6, modulated=True), torch.randn(2, 4, 7, 9)
    plain = F.conv2d(x, layer.conv.weight, padding=1)
    assert layer.offset.weight.abs().min() > 0
    assert not torch.allclose(layer(x), plain / 2, atol=1e-2)
    torch.nn.init.zeros_(layer.offset.weight)
    assert torch.allclose(layer(x), plain / 2, atol=1e-5)  # sigmoid(0)


@pytest.mark.parametrize(("dy", "dx"), [(0.0, 1.0), (-1.0, 0.0), (0.25, -0.5)])
def test_a_constant_offset_reads_the_shifted_image(dy: float, dx: float) -> None:
    torch.manual_seed(1)
    layer, x = DeformableConv(3, 5, bias=False), torch.randn(1, 3, 12, 12)
    assert layer.conv.bias is None and layer.offset.bias is not None
    with torch.no_grad():
        layer.offset.bias.copy_(torch.tensor([dy, dx]).repeat(9))
    ys, xs = torch.meshgrid(torch.arange(12) + dy, torch.arange(12) + dx, indexing="ij")
    grid = torch.stack([xs, ys], dim=-1)[None] / 11 * 2 - 1
    shifted = F.grid_sample(x, grid, align_corners=True)
    assert torch.allclose(inner(layer(x)), inner(F.conv2d(shifted, layer.conv.weight, padding=1)), atol=1e-4)


def test_modulation_weighs_each_tap() -> None:
    torch.manual_seed(2)
    layer, x = DeformableConv(3, 5, modulated=True), torch.randn(1, 3, 8, 8)
    torch.nn.init.zeros_(layer.offset.weight)
    assert layer.offset.bias is not None
    with torch.no_grad():
        layer.offset.bias[18:] = -40.0  # every tap off
        layer.offset.bias[18 + 4] = 40.0  # but the centre
    centre = layer.conv.weight[..., 1:2, 1:2]
    assert torch.allclose(layer(x), F.conv2d(x, centre), atol=1e-5)


def test_offsets_learn() -> None:
    torch.manual_seed(3)
    layer = DeformableConv(3, 5)
    layer(torch.randn(1, 3, 8, 8)).square().sum().backward()
    assert layer.offset.weight.grad is not None and layer.offset.weight.grad.abs().sum() > 0


@pytest.mark.parametrize(("stride", "groups", "bias"), [(1, 1, True), (2, 4, False)])
def test_what_replaces_a_convolution_begins_as_the_same_function(stride: int, groups: int, bias: bool) -> None:
    torch.manual_seed(4)
    conv = nn.Conv2d(8, 12, 3, stride, padding=1, groups=groups, bias=bias)
    x = torch.randn(2, 8, 9, 12)
    torch.testing.assert_close(DeformableConv.like(conv)(x), conv(x), atol=1e-5, rtol=1e-4)
