"""Semantic heads that concatenate the levels: the rows of the five papers, and numbers computed by hand."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import pytest
import torch
from omegaconf import DictConfig
from torch import nn

from panoptic_occ.backbone.deformable import DeformableConv
from panoptic_occ.common.errors import ConfigError
from panoptic_occ.config.compose import compose
from panoptic_occ.config.instantiate import safe_instantiate
from panoptic_occ.structures.categories import Categories
from panoptic_occ.stuff.concat import ConcatHead
from panoptic_occ.testing import toy_categories

CATEGORIES, CITYSCAPES = toy_categories(80, 53), toy_categories(8, 11)
ROWS = ("ups", "oc_dcn", "oanet", "oanet_stuff_only", "banet", "banet_dcn")


@cache
def settings(choice: str) -> DictConfig:
    node = compose([f"stuff={choice}"]).stuff
    assert isinstance(node, DictConfig)
    return node


def build(choice: str, in_channels: int = 256, categories: Categories = CATEGORIES, **changes: Any) -> ConcatHead:
    head = safe_instantiate(settings(choice))(in_channels=in_channels, categories=categories, **changes)
    assert isinstance(head, ConcatHead)
    return head


def pyramid(channels: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(5)
    return {str(k): torch.randn(1, channels, 16 >> k, 24 >> k) for k in range(4)}


def layer_widths(stack: nn.Module) -> list[int]:
    layers = [m for m in stack.modules() if isinstance(m, DeformableConv) or type(m) is nn.Conv2d]
    inside = {id(m.offset) for m in layers if isinstance(m, DeformableConv)}
    return [
        m.conv.out_channels if isinstance(m, DeformableConv) else m.out_channels for m in layers if id(m) not in inside
    ]


@pytest.mark.parametrize(
    ("choice", "stacks", "widths", "deform", "norms", "trunk", "classes"),
    [
        ("ups", 1, [256, 128, 128], "v1", 0, 512, 133),
        ("oc_dcn", 4, [128, 128], "v2", 0, 128, 133),
        ("oanet", 4, [128, 128], None, 9, 128, 133),
        ("oanet_stuff_only", 4, [128, 128], None, 9, 128, 53),
        ("banet", 1, [256, 128, 128], None, 0, 512, 133),
        ("banet_dcn", 1, [256, 128, 128], "v1", 0, 512, 133),
    ],
)
def test_rows_of_the_table(
    choice: str, stacks: int, widths: list[int], deform: str | None, norms: int, trunk: int, classes: int
) -> None:
    head = build(choice)
    assert len(head.stacks) == stacks
    assert all(layer_widths(stack) == widths for stack in head.stacks)
    deformable = [m for m in head.modules() if isinstance(m, DeformableConv)]
    assert len(deformable) == (0 if deform is None else stacks * len(widths))
    assert all(m.modulated == (deform == "v2") for m in deformable)
    assert sum(isinstance(m, nn.GroupNorm) for m in head.modules()) == norms
    assert (head.width, head.num_classes) == (trunk, classes)
    assert head.predictor.weight.std().item() == pytest.approx(0.01, rel=0.1)


def test_upsnet_on_cityscapes() -> None:
    head = build("ups", categories=CITYSCAPES, widths=[1, 1])
    assert layer_widths(head.stacks[0]) == [128, 128] and head.num_classes == 19


def test_parameters_by_hand() -> None:
    conv = 9 * (256 * 256 + 256 * 128 + 128 * 128) + 256 + 128 + 128
    offsets = 9 * 18 * (256 + 256 + 128) + 3 * 18
    classes = 512 * 133 + 133
    assert sum(p.numel() for p in build("banet").parameters()) == conv + classes
    assert sum(p.numel() for p in build("banet_dcn").parameters()) == conv + offsets + classes


@pytest.mark.parametrize("choice", ROWS)
@pytest.mark.parametrize("channels", [32, 64])
def test_small_bases_train(choice: str, channels: int) -> None:
    head = build(choice, channels)
    logits = head(pyramid(channels))
    assert logits.shape == (1, head.num_classes, 16, 24)
    logits.square().mean().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in head.parameters())


@pytest.mark.parametrize("shared", [True, False])
def test_levels_stand_side_by_side(shared: bool) -> None:
    """Levels of constant value v through kernels that only double the first channel: 2 v, level by level."""
    head = ConcatHead(in_channels=2, categories=CATEGORIES, hidden=1, widths=[1], shared=shared)
    for k, stack in enumerate(head.stacks):
        weight = next(stack.parameters())
        nn.init.zeros_(weight)
        with torch.no_grad():
            weight[0, 0, 1, 1] = 2.0 if shared else 2.0 + k
    features = {str(k): torch.full((1, 2, 16 >> k, 16 >> k), float(k + 1)) for k in range(4)}
    expected = [2.0, 4.0, 6.0, 8.0] if shared else [2.0, 6.0, 12.0, 20.0]
    trunk = head.trunk(features)
    assert trunk.shape == (1, 4, 16, 16)
    assert torch.equal(trunk[0].flatten(1), torch.tensor(expected)[:, None].expand(-1, 256))


def test_upsampling_is_bilinear_at_pixel_centres() -> None:
    """A ramp of x at stride 8 is the same ramp at stride 4, except where the border is repeated."""
    head = ConcatHead(in_channels=1, categories=CATEGORIES, hidden=1, widths=[1])
    weight = next(head.stacks[0].parameters())
    nn.init.zeros_(weight)
    with torch.no_grad():
        weight[0, 0, 1, 1] = 1.0
    ramps = {str(k): ((torch.arange(16 >> k) + 0.5) * 2**k).expand(1, 1, 16 >> k, -1) for k in range(4)}
    trunk = head.trunk(ramps)
    assert torch.allclose(trunk[0, 1, :, 1:-1], trunk[0, 0, :, 1:-1])
    assert torch.allclose(trunk[0, 3, :, 4:-4], trunk[0, 0, :, 4:-4])
    assert trunk[0, 1, 0, 0] == 1.0 and trunk[0, 0, 0, 0] == 0.5


def test_the_fusing_convolution_follows_the_norm() -> None:
    fuse = [m for m in build("oanet").fuse.modules() if not list(m.children())]
    assert [type(m) for m in fuse] == [nn.Conv2d, nn.GroupNorm, nn.ReLU]
    assert isinstance(fuse[0], nn.Conv2d) and fuse[0].kernel_size == (3, 3) and fuse[0].bias is None
    plain = next(iter(build("oc_dcn").fuse.children()))
    assert isinstance(plain, nn.Conv2d) and plain.kernel_size == (1, 1) and plain.bias is not None


def test_convolutions_start_as_in_msra() -> None:
    torch.manual_seed(0)
    plain = [m for m in build("banet").stacks.modules() if isinstance(m, nn.Conv2d)]
    deformable = [m.conv for m in build("banet_dcn").stacks.modules() if isinstance(m, DeformableConv)]
    for conv in [*plain, *deformable]:
        assert conv.weight.std().item() == pytest.approx(math.sqrt(2 / (9 * conv.out_channels)), rel=0.02)
        assert conv.bias is not None and conv.bias.abs().sum() == 0


@pytest.mark.parametrize(
    ("changes", "hint"),
    [
        ({"norm": "grupo"}, "did you mean 'group'"),
        ({"deform": "v3"}, "stuff.deform=v3: .*allowed: none, v1, v2"),
        ({"fuse_kernel": 5}, "allowed: 1, 3, or null"),
        ({"widths": []}, "at least one convolution"),
        ({"widths": [2, 0]}, "a list, each a whole number, 1 or more"),
        ({"hidden": 48, "norm": "group"}, "multiple of 32"),
        ({"things": "dens"}, "did you mean 'dense'"),
    ],
)
def test_wrong_settings_are_answered(changes: dict[str, Any], hint: str) -> None:
    with pytest.raises(ConfigError, match=hint):
        ConcatHead(in_channels=64, categories=CATEGORIES, **changes)
