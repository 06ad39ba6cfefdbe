"""Classes of pixels from features, by more than one convolution."""

from __future__ import annotations

from torch import nn


class DeepPredictor(nn.Sequential):
    """``convs`` times [3x3 convolution to ``hidden`` channels, GroupNorm, ReLU], then a 1x1 convolution to the classes.

    With two this is H_sem of REFINE (Ren et al., AAAI 2021, Figure 3; the paper does not give its layers).
    """

    def __init__(self, in_channels: int, hidden: int, classes: int, convs: int = 2) -> None:
        layers: list[nn.Module] = []
        for width in (in_channels, *[hidden] * (convs - 1)):
            layers += [nn.Conv2d(width, hidden, 3, padding=1, bias=False), nn.GroupNorm(32, hidden), nn.ReLU()]
        super().__init__(*layers, nn.Conv2d(hidden, classes, 1))
