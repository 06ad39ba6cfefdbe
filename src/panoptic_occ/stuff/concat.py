"""Semantic heads that join the levels of the pyramid side by side: UPSNet (Xiong et al., CVPR 2019, section 3.1),
OANet (Liu et al., CVPR 2019), OCFusion on Cityscapes (Lazarow et al., CVPR 2020) and BANet (Chen et al., CVPR 2020).

    P2..P5 -> n x [3x3 conv, norm, ReLU] each -> bilinear to stride 4 -> concat (-> fusing conv) -> 1x1 conv to classes
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from panoptic_occ.backbone.deformable import DeformableConv
from panoptic_occ.common.errors import ConfigError
from panoptic_occ.common.kinds import Count
from panoptic_occ.config.values import checked
from panoptic_occ.ops.initialise import zero_biases
from panoptic_occ.structures.categories import Categories
from panoptic_occ.structures.sample import Features
from panoptic_occ.stuff.base import LossNorm, StuffHead, Things
from panoptic_occ.stuff.pfpn import LEVELS

Norm = Literal["group", "none"]
Deform = Literal["none", "v1", "v2"]
GROUPS = 32


class ConcatHead(StuffHead):
    """A stack of 3x3 convolutions on each of P2..P5, all levels upsampled to stride 4 and concatenated.

    ``hidden``: the unit of all widths, half of ``in_channels`` by default (128 for 256).
    ``widths``: output channels of the convolutions in that unit.  ``shared``: one stack for all levels, or one each.
    ``deform``: ``v1`` or ``v2`` makes the stack deformable.
    ``fuse_kernel``: 1 or 3 adds a convolution of ``fuse_width`` units after the concatenation, with norm and ReLU.
    ``things``, ``loss_norm``: see StuffHead.  Raises ConfigError for values that are not allowed.
    """

    @checked("stuff")
    def __init__(
        self,
        *,
        in_channels: int,
        categories: Categories,
        things: Things = "dense",
        hidden: Count | None = None,
        widths: Sequence[Count] = (2, 1, 1),
        shared: bool = True,
        norm: Norm = "none",
        deform: Deform = "none",
        fuse_kernel: Literal[1, 3] | None = None,
        fuse_width: Count = 1,
        loss_norm: LossNorm = "valid",
    ) -> None:
        hidden = max(in_channels // 2, GROUPS) if hidden is None else hidden
        if not widths:
            raise ConfigError("stuff.widths=[]: a head needs at least one convolution, as in widths=[2, 1, 1]")
        if norm == "group" and hidden % GROUPS:
            raise ConfigError(
                f"stuff.hidden={hidden}: norm=group splits the channels into {GROUPS} groups; give a multiple of "
                f"{GROUPS}, or norm=none"
            )
        stacked = len(LEVELS) * widths[-1] * hidden
        width = stacked if fuse_kernel is None else fuse_width * hidden
        super().__init__(categories, width, things, loss_norm)
        channels = [in_channels, *(factor * hidden for factor in widths)]
        self.stacks = nn.ModuleList(_stack(channels, norm, deform) for _ in range(1 if shared else len(LEVELS)))
        self.fuse: nn.Module = nn.Identity()
        if fuse_kernel is not None:
            self.fuse = nn.Sequential(_conv(stacked, width, fuse_kernel, norm), *_normed(width, norm))
        nn.init.normal_(self.predictor.get_parameter("weight"), std=0.01)
        zero_biases(self)

    def trunk(self, features: Features) -> Float[Tensor, "b w h4 w4"]:
        """The concatenated, and where configured fused, features at stride 4 (BANet: F_S)."""
        size = features[LEVELS[0]].shape[-2:]
        levels = []
        for k, name in enumerate(LEVELS):
            level = self.stacks[k % len(self.stacks)](features[name])
            levels.append(level if k == 0 else F.interpolate(level, size=size, mode="bilinear", align_corners=False))
        return self.fuse(torch.cat(levels, dim=1))


def _stack(channels: Sequence[int], norm: Norm, deform: Deform) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in pairwise(channels):
        plain = deform == "none"
        conv = _conv(before, after, 3, norm) if plain else DeformableConv(before, after, deform == "v2", norm == "none")
        layers += [conv, *_normed(after, norm)]
    return nn.Sequential(*layers)


def _conv(before: int, after: int, kernel: int, norm: Norm) -> nn.Conv2d:
    conv = nn.Conv2d(before, after, kernel, padding=kernel // 2, bias=norm == "none")
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return conv


def _normed(width: int, norm: Norm) -> list[nn.Module]:
    return [nn.GroupNorm(GROUPS, width), nn.ReLU()] if norm == "group" else [nn.ReLU()]
