"""Backbones: strides and channels of the pyramid, and settings that cannot work."""

from __future__ import annotations

from typing import Any
from urllib.error import URLError

import pytest
import torch
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from panoptic_occ.backbone.deformable import DeformableConv
from panoptic_occ.backbone.resnet import FrozenNorm, resnet_fpn
from panoptic_occ.backbone.small import SmallFPN
from panoptic_occ.common.errors import ConfigError


@pytest.mark.parametrize("make", [lambda: SmallFPN(out_channels=24), lambda: resnet_fpn("resnet18", out_channels=24)])
def test_pyramid(make) -> None:  # type: ignore[no-untyped-def]
    backbone = make().eval()
    features = backbone(torch.zeros(1, 3, 64, 128))
    shapes = {name: tuple(f.shape[1:]) for name, f in features.items()}
    assert shapes == {"0": (24, 16, 32), "1": (24, 8, 16), "2": (24, 4, 8), "3": (24, 2, 4), "pool": (24, 1, 2)}
    assert backbone.out_channels == 24


def test_norms() -> None:
    kinds = {norm: {type(m) for m in resnet_fpn("resnet18", norm=norm).modules()} for norm in ("frozen", "batch")}  # type: ignore[arg-type]
    assert FrozenNorm in kinds["frozen"] and nn.BatchNorm2d not in kinds["frozen"]
    assert nn.BatchNorm2d in kinds["batch"] and FrozenNorm not in kinds["batch"]


def test_group_norm_in_the_pyramid() -> None:
    pyramid = resnet_fpn("resnet18", out_channels=64, fpn_norm="group").fpn
    assert [m.num_groups for m in pyramid.modules() if isinstance(m, nn.GroupNorm)] == [32] * 8
    assert not any(isinstance(m, nn.GroupNorm) for m in resnet_fpn("resnet18").modules())


def norms() -> tuple[FrozenBatchNorm2d, FrozenNorm]:
    """torchvision's and ours, with the same statistics."""
    torch.manual_seed(0)
    reference, ours = FrozenBatchNorm2d(6, eps=0.1), FrozenNorm(6, eps=0.1)
    for name, buffer in reference.named_buffers():
        buffer.uniform_(0.2, 3) if name == "running_var" else buffer.normal_()
    ours.load_state_dict(reference.state_dict())
    return reference, ours


def test_frozen_norm_is_torchvisions_with_and_without_a_gradient() -> None:
    reference, ours = norms()
    x = torch.randn(2, 6, 5, 4, requires_grad=True)
    expected = reference(x)
    assert torch.equal(ours(x), expected) and ours(x).requires_grad
    with torch.no_grad():
        for layout in (torch.contiguous_format, torch.channels_last):
            torch.testing.assert_close(ours(x.contiguous(memory_format=layout)), expected)


def test_frozen_norm_keeps_half_precision() -> None:
    """Else every activation of a frozen backbone would take twice the memory that bfloat16 is chosen for."""
    _, norm = norms()
    x = torch.randn(2, 6, 5, 4)
    half = x.bfloat16().requires_grad_()
    normed = norm(half)
    assert normed.dtype == torch.bfloat16
    torch.testing.assert_close(normed.float(), norm(half.detach().float()), rtol=2**-8, atol=2**-8)
    normed.float().sum().backward()
    assert half.grad is not None and half.grad.abs().min() > 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"norm": "bach"}, "did you mean 'batch'"),
        ({"weights": "IMAGENET1K_V9"}, "did you mean 'IMAGENET1K_V1'"),
        ({"frozen_stages": 6}, "backbone.frozen_stages=6: allowed: a whole number, 0 to 5"),
        ({"frozen_stages": 2}, "without weights freezes random filters"),
        ({"frozen_stages": 2, "norm": "batch"}, "would go on counting"),
        ({"deformable_stages": 1}, r"backbone.deformable_stages=1 needs bottlenecks"),
        ({"deformable_stages": 5}, r"backbone.deformable_stages=5: .* 0 to 4"),
        ({"name": "resnext152_32x8d", "weights": "IMAGENET1K_V1"}, r"unknown for resnext152_32x8d; there are none"),
    ],
)
def test_settings_that_cannot_work_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resnet_fpn(**{"name": "resnet18", **settings})


def test_without_a_network_pretrained_weights_say_where_they_belong(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> nn.Module:
        raise URLError("no route to host")

    monkeypatch.setattr("panoptic_occ.backbone.resnet.get_model", offline)
    with pytest.raises(ConfigError, match=r"IMAGENET1K_V1: cannot be loaded .*no route.* put torchvision's file into"):
        resnet_fpn("resnet18", weights="IMAGENET1K_V1")


def test_deformable_stages_begin_as_the_plain_network() -> None:
    torch.manual_seed(0)
    plain = resnet_fpn("resnet50", out_channels=32).eval()
    deformable = resnet_fpn("resnet50", out_channels=32, deformable_stages=2).eval()
    layers = [name for name, module in deformable.body.named_modules() if isinstance(module, DeformableConv)]
    assert layers == [f"layer{k}.{block}.conv2" for k, blocks in ((3, 6), (4, 3)) for block in range(blocks)]
    renamed = {f"body.{name}.weight": f"body.{name}.conv.weight" for name in layers}
    weights = {renamed.get(key, key): value for key, value in plain.state_dict().items()}
    missing, unexpected = deformable.load_state_dict(weights, strict=False)
    assert not unexpected and all(".offset." in key for key in missing)
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        for (name, one), other in zip(plain(x).items(), deformable(x).values(), strict=True):
            torch.testing.assert_close(one, other, atol=1e-3, rtol=1e-3, msg=name)


def test_resnext_152_has_its_blocks_and_groups() -> None:
    with torch.device("meta"):
        body = resnet_fpn("resnext152_32x8d", out_channels=32).body
    assert [len(body[f"layer{k}"]) for k in range(1, 5)] == [3, 8, 36, 3]
    conv = body["layer4"][0].conv2
    assert (conv.groups, conv.in_channels) == (32, 2048)
