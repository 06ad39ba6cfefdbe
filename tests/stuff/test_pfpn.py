"""The semantic head of Panoptic FPN."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from panoptic_occ.common.errors import ConfigError
from panoptic_occ.structures.sample import Batch, Sample
from panoptic_occ.structures.semantic_map import VOID_LABEL
from panoptic_occ.stuff.pfpn import PanopticFPNHead
from panoptic_occ.testing import toy_categories

CATEGORIES = toy_categories(80, 53)


def head_of(**options: Any) -> PanopticFPNHead:
    return PanopticFPNHead(**{"in_channels": 64, "categories": CATEGORIES, **options})


def batch_of(padded: tuple[int, int], inside: tuple[int, int], original: tuple[int, int]) -> Batch:
    sample = Sample(torch.zeros(3, *inside, dtype=torch.uint8), 0, "a", original)
    return Batch(torch.zeros(1, 3, *padded), (inside,), (sample,))


def levels() -> dict[str, torch.Tensor]:
    return {str(k): torch.randn(1, 64, 16 >> k, 16 >> k) for k in range(4)}


def test_paths_of_the_paper() -> None:
    head = head_of(in_channels=256)
    convs = [sum(isinstance(m, nn.Conv2d) for m in path) for path in head.paths]
    ups = [sum(isinstance(m, nn.Upsample) for m in path) for path in head.paths]
    assert (convs, ups) == ([1, 1, 2, 3], [0, 1, 2, 3])
    assert head.predictor.out_channels == 54
    assert {m.out_channels for p in head.paths for m in p if isinstance(m, nn.Conv2d)} == {128}


def test_all_levels_meet_at_stride_four() -> None:
    head = head_of()
    features = {str(k): torch.zeros(1, 64, 800 // 2 ** (k + 2), 1344 // 2 ** (k + 2)) for k in range(4)}
    assert head(features).shape == (1, 54, 200, 336)


@pytest.mark.parametrize(("norm", "share"), [("valid", 1.0), ("all", 3 / 8)])
def test_loss_of_zero_logits(norm: str, share: float) -> None:
    head = head_of(loss_norm=norm)
    semantic = torch.full((1, 4, 8), VOID_LABEL)
    semantic[0, 0] = torch.tensor([80, 81, 0, VOID_LABEL, VOID_LABEL, VOID_LABEL, VOID_LABEL, VOID_LABEL])
    semantic = torch.cat([semantic[:, :1]] * 4, dim=1)
    loss = head.loss(torch.zeros(1, 54, 1, 2), semantic)
    assert loss.item() == pytest.approx(share * math.log(54), rel=1e-6)


def test_all_void_is_zero_with_finite_gradient() -> None:
    head = head_of()
    logits = torch.randn(1, 54, 2, 2, requires_grad=True)
    loss = head.loss(logits, torch.full((1, 8, 8), VOID_LABEL))
    loss.backward()
    assert loss.item() == 0 and logits.grad is not None and logits.grad.abs().sum() == 0


@pytest.mark.parametrize("things", ["collapsed", "dense"])
def test_label_maps_hold_stuff_only(things: str) -> None:
    head = head_of(things=things)
    classes = 133 if things == "dense" else 54
    assert head.predictor.out_channels == classes
    logits = torch.zeros(1, classes, 8, 8)
    logits[0, classes - 2, :, :4] = 9.0  # the last stuff class but one
    logits[0, 0, :, 4:] = 9.0  # a thing
    head.forward = lambda features: logits  # type: ignore[method-assign]
    (semantic,) = head.semantic_maps({}, batch_of((32, 32), (32, 32), (32, 32)))
    assert semantic.labels[:, :14].unique().tolist() == [131]
    assert semantic.labels[:, 18:].unique().tolist() == [VOID_LABEL]


def test_logits_are_cropped_before_the_last_resize() -> None:
    """An image 33 px wide, padded to 64, with a border at x = 16: it must stay there, not move to about 8."""
    head = head_of()
    fine = torch.zeros(1, 54, 64, 64)
    fine[:, 1, :, :16], fine[:, 2, :, 16:33], fine[:, 3, :, 33:] = 5.0, 5.0, 5.0
    logits = F.interpolate(fine, scale_factor=0.25, mode="area")
    head.forward = lambda features: logits  # type: ignore[method-assign]
    (semantic,) = head.semantic_maps({}, batch_of((64, 64), (33, 33), (66, 66)))
    border = int((semantic.labels[10] == semantic.labels[10, 0]).sum())
    assert abs(border - 32) <= 2


def test_semantic_targets_of_the_two_modes() -> None:
    for things, cat, grass in (("collapsed", 0, 1), ("dense", 5, 80)):
        head = head_of(things=things)
        for channel, label in ((cat, 5), (grass, 80)):
            logits = torch.zeros(1, head.num_classes, 1, 1)
            logits[0, channel] = 60.0
            assert head.loss(logits, torch.full((1, 4, 4), label)).item() == pytest.approx(0, abs=1e-4)
            assert head.loss(-logits, torch.full((1, 4, 4), label)).item() > 50


def test_ocfusions_head_adds_one_convolution_after_the_sum() -> None:
    head = head_of(things="dense", fuse=True)
    plain = head_of(things="dense")
    plain.load_state_dict(head.state_dict(), strict=False)
    extra = sum(p.numel() for p in head.parameters()) - sum(p.numel() for p in plain.parameters())
    assert extra == 32 * 32 + 32
    features = levels()
    conv = next(m for m in head.fuse.modules() if isinstance(m, nn.Conv2d))
    expected = F.relu(torch.einsum("oi,bihw->bohw", conv.weight[..., 0, 0], plain.trunk(features)))
    assert torch.allclose(head.trunk(features), expected, atol=1e-5)


@pytest.mark.parametrize("size", [(64, 128), (96, 160)])
def test_raps_head_sums_five_levels_with_aligned_corners(size: tuple[int, int]) -> None:
    """Against its definition; 96 and 160 are no multiples of 64, so P6 comes out larger than P2 and is resized."""
    torch.manual_seed(0)
    head = head_of(levels=5, bias=True, align_corners=True)
    shapes = [(math.ceil(size[0] / s), math.ceil(size[1] / s)) for s in (4, 8, 16, 32, 64)]
    names = ("0", "1", "2", "3", "pool")
    features = {name: torch.randn(1, 64, *shape) for name, shape in zip(names, shapes, strict=True)}
    total = torch.zeros(1, 64, *shapes[0])[:, : head.width]
    for level, name in enumerate(names):
        x, layers = features[name], iter(head.paths[level])
        for _ in range(max(1, level)):
            conv, norm, _ = next(layers), next(layers), next(layers)
            assert conv.bias is not None and norm.num_groups == 32
            x = F.group_norm(F.conv2d(x, conv.weight, conv.bias, padding=1), 32, norm.weight, norm.bias).relu()
            if level:
                next(layers)
                x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
        total = total + F.interpolate(x, shapes[0], mode="bilinear", align_corners=True)
    torch.testing.assert_close(head.trunk(features), total)
    assert [sum(isinstance(m, nn.Conv2d) for m in path) for path in head.paths] == [1, 1, 2, 3, 4]


def test_aligned_corners_reach_the_pixels() -> None:
    """Two cells to eight pixels: aligned, the first and last pixel show the cells and the border is a line between."""
    logits = torch.zeros(1, 54, 1, 2)
    logits[0, 1, 0], logits[0, 2, 0] = torch.tensor([7.0, 0.0]), torch.tensor([0.0, 7.0])
    batch = batch_of((4, 8), (4, 8), (4, 8))
    truth = torch.full((1, 4, 8), 80)  # the first stuff class
    rows = {True: [7.0, 6, 5, 4, 3, 2, 1, 0], False: [7.0, 7, 7 - 0.875, 7 - 2.625, 2.625, 0.875, 0, 0]}
    for aligned, first in rows.items():
        head = head_of(align_corners=aligned)
        (semantic,) = head.decode(logits, batch, frozenset({"semantic_logits"}))
        assert semantic.logits is not None
        torch.testing.assert_close(semantic.logits[1, 0], torch.tensor(first))
        cross_entropy = [math.log(math.exp(a) + math.exp(7 - a) + 52) - a for a in first]
        assert head.loss(logits, truth).item() == pytest.approx(sum(cross_entropy) / 8, rel=1e-5)
        (labels,) = head.decode(logits, batch)
        assert torch.equal(labels.labels, semantic.labels)


def test_a_deep_predictor_is_two_normed_convolutions_and_a_projection() -> None:
    torch.manual_seed(0)
    head = head_of(hidden=64, predictor_convs=2)
    features = levels()
    first, first_norm, _, second, second_norm, _, last = head.predictor.children()
    x = head.trunk(features)
    for conv, norm in ((first, first_norm), (second, second_norm)):
        x = F.group_norm(F.conv2d(x, conv.weight, padding=1), 32, norm.weight, norm.bias).relu()  # type: ignore[arg-type]
    torch.testing.assert_close(head(features), F.conv2d(x, last.weight, last.bias))  # type: ignore[arg-type]
    assert first.weight.shape == (32, 64, 3, 3) and second.weight.shape == (32, 32, 3, 3)  # type: ignore[union-attr]
    assert isinstance(head_of().predictor, nn.Conv2d)
    with pytest.raises(ConfigError, match=r"stuff\.predictor_convs=-1"):
        head_of(predictor_convs=-1)


def test_other_numbers_of_levels_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"stuff\.levels=3: allowed: 4, 5"):
        head_of(levels=3)
