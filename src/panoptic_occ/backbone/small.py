"""A small backbone for images of 100 to 200 px on a CPU, trained from scratch in minutes."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn
from torchvision.ops import Conv2dNormActivation, FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from panoptic_occ.common.kinds import Count
from panoptic_occ.structures.sample import Features

Widths = tuple[Count, Count, Count, Count, Count]


class SmallFPN(nn.Module):
    """Plain 3x3 convolutions with BatchNorm and ReLU at strides 2..32, and a feature pyramid on top.

    ``widths``: channels of the stem (stride 2) and of the four stages (strides 4, 8, 16, 32); ``depth``: convolutions a
    stage.  Image (B,3,H,W) -> dict of P2..P6 under the keys 0..3 and pool, like the torchvision backbones.
    """

    def __init__(self, widths: Widths = (32, 64, 96, 128, 160), depth: Count = 2, out_channels: Count = 64) -> None:
        super().__init__()
        self.out_channels = out_channels
        self.stem = Conv2dNormActivation(3, widths[0], 3, stride=2)
        self.stages = nn.ModuleList()
        for before, width in pairwise(widths):
            others = (Conv2dNormActivation(width, width, 3) for _ in range(depth - 1))
            self.stages.append(nn.Sequential(Conv2dNormActivation(before, width, 3, stride=2), *others))
        self.fpn = FeaturePyramidNetwork(list(widths[1:]), out_channels, extra_blocks=LastLevelMaxPool())

    def forward(self, x: Tensor) -> Features:
        """Features of the pyramid, finest first."""
        x = self.stem(x)
        stages: dict[str, Tensor] = {}
        for level, stage in enumerate(self.stages):
            stages[str(level)] = x = stage(x)
        return self.fpn(stages)
