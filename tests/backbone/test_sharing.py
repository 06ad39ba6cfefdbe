"""Feature sharing (OANet, Table 4): what each branch reads and which weights it moves."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn

from panoptic_occ.backbone.none import NoBackbone
from panoptic_occ.backbone.resnet import resnet_fpn
from panoptic_occ.backbone.sharing import share_features
from panoptic_occ.backbone.small import SmallFPN
from panoptic_occ.common.errors import ConfigError
from panoptic_occ.exchange.base import Pyramids
from panoptic_occ.runs.build import plan_of
from panoptic_occ.runs.plan import build_model
from panoptic_occ.testing import toy_categories

BACKBONES: dict[str, Callable[[], nn.Module]] = {
    "small": lambda: SmallFPN((16,) * 5, depth=1, out_channels=16),
    "resnet": lambda: resnet_fpn("resnet18", out_channels=16, norm="frozen"),
}
LEVELS = ["0", "1", "2", "3", "pool"]


def built(name: str, share: str) -> nn.Module:
    torch.manual_seed(0)
    return share_features(BACKBONES[name](), share)  # type: ignore[arg-type]


def image() -> Tensor:
    return torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def moved(backbone: nn.Module, branch: str) -> set[str]:
    """Names of the parameters that a loss on one branch's pyramid reaches."""
    backbone.zero_grad(set_to_none=True)
    levels = getattr(Pyramids.of(backbone(image())), branch)
    torch.stack([levels[name].square().sum() for name in LEVELS]).sum().backward()
    return {name for name, p in backbone.named_parameters() if p.grad is not None and bool(p.grad.any())}


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("share", ["backbone", "none"])
def test_each_branch_has_its_pyramid(name: str, share: str) -> None:
    plain, backbone = built(name, "fpn").eval(), built(name, share).eval()
    thing, stuff = Pyramids.of(backbone(image()))
    expected = plain(image())
    assert list(thing) == list(stuff) == LEVELS
    assert all(torch.equal(thing[k], expected[k]) and torch.equal(stuff[k], expected[k]) for k in LEVELS)
    assert backbone.out_channels == 16


@pytest.mark.parametrize("name", BACKBONES)
def test_fpn_changes_nothing(name: str) -> None:
    torch.manual_seed(0)
    plain = BACKBONES[name]()
    assert share_features(plain, "fpn") is plain
    thing, stuff = Pyramids.of(plain(image()))
    assert thing is not None and all(thing[k] is stuff[k] for k in LEVELS)


@pytest.mark.parametrize("name", BACKBONES)
def test_own_pyramid_on_shared_stages(name: str) -> None:
    backbone = built(name, "backbone").train()
    thing, stuff = moved(backbone, "thing"), moved(backbone, "stuff")
    assert {n for n in thing if n.startswith("fpn")} == {n for n, _ in backbone.named_parameters() if "fpn.thing." in n}
    assert {n for n in stuff if n.startswith("fpn")} == {n for n, _ in backbone.named_parameters() if "fpn.stuff." in n}
    shared = thing & stuff
    assert shared and shared == {n for n, _ in backbone.named_parameters() if not n.startswith("fpn")}


@pytest.mark.parametrize("name", BACKBONES)
def test_own_network(name: str) -> None:
    backbone = built(name, "none").train()
    names = {n for n, _ in backbone.named_parameters()}
    thing, stuff = moved(backbone, "thing"), moved(backbone, "stuff")
    assert not thing & stuff
    assert thing | stuff == names and len(thing) == len(stuff)


def test_frozen_stages_stay_frozen_in_both_networks() -> None:
    backbone = BACKBONES["resnet"]()
    backbone.body.conv1.requires_grad_(False)  # type: ignore[union-attr, operator]
    both = share_features(backbone, "none")
    frozen = {n for n, p in both.named_parameters() if not p.requires_grad}
    assert frozen == {"thing.body.conv1.weight", "stuff.body.conv1.weight"}


def test_settings_that_cannot_work_are_named() -> None:
    with pytest.raises(ConfigError, match="share='bakcbone' is unknown; did you mean 'backbone'"):
        share_features(SmallFPN(), "bakcbone")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"NoBackbone has no module 'fpn'.*share=fpn"):
        share_features(NoBackbone(), "backbone")


TINY = ["experiment=tiny", "stuff=pfpn_dense", "occlusion=score", "fusion=heuristic"]


def test_the_rest_of_the_network_starts_the_same() -> None:
    """Only the stuff branch's copy is added; the weights of everything else do not depend on the choice."""
    categories = toy_categories()
    plain = build_model(plan_of(TINY), categories).state_dict()
    for share, old, thing, stuff in (
        ("backbone", "backbone.fpn.", "backbone.fpn.thing.", "backbone.fpn.stuff."),
        ("none", "backbone.", "backbone.thing.", "backbone.stuff."),
    ):
        state = deepcopy(build_model(plan_of([*TINY, f"share={share}"]), categories).state_dict())
        for name, tensor in plain.items():
            if name.startswith(old):
                assert torch.equal(state.pop(name.replace(old, stuff, 1)), tensor)
            assert torch.equal(state.pop(name.replace(old, thing, 1)), tensor)
        assert not state
