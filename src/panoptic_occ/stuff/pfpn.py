"""The semantic head of Panoptic FPN (Kirillov et al. 2019, section 3.1 and Figure 3)."""

from __future__ import annotations

from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from panoptic_occ.common.kinds import Size
from panoptic_occ.config.values import checked
from panoptic_occ.ops.initialise import relu_convolutions
from panoptic_occ.structures.categories import Categories
from panoptic_occ.structures.sample import Features
from panoptic_occ.stuff.base import LossNorm, StuffHead, Things

LEVELS = ("0", "1", "2", "3")


class PanopticFPNHead(StuffHead):
    """P2..P5 each to stride 4 by [3x3 conv, GroupNorm, ReLU, x2 bilinear] steps, summed, 1x1 conv to the classes.

    ``hidden``: channels, half of ``in_channels`` by default (128 for 256).
    ``fuse``: one more 1x1 convolution with ReLU after the sum (OCFusion's code).
    ``levels`` (5: P6 too), ``bias`` of the convolutions, ``align_corners`` of all steps up to the pixels: as in RAP's
    code.  A level that ends at another size than P2 (P6, where the image is no multiple of 64) is resized to it.
    ``predictor_convs``: 3x3 convolutions with GroupNorm and ReLU before the 1x1 one (REFINE: 2).
    ``things``, ``loss_norm``: see StuffHead.
    """

    @checked("stuff")
    def __init__(
        self,
        *,
        in_channels: int,
        categories: Categories,
        things: Things = "collapsed",
        hidden: int | None = None,
        loss_norm: LossNorm = "valid",
        fuse: bool = False,
        levels: Literal[4, 5] = 4,
        bias: bool = False,
        align_corners: bool = False,
        predictor_convs: Size = 0,
    ) -> None:
        usual = max(in_channels // 2, 32)
        hidden = usual if hidden is None else hidden
        super().__init__(categories, hidden, things, loss_norm, align_corners)
        if predictor_convs > 0:
            self.predictor = DeepPredictor(hidden, usual, self.num_classes, predictor_convs)
        paths = (pyramid_path(in_channels, hidden, level, bias, align_corners) for level in range(levels))
        self.paths = nn.ModuleList(paths)
        self.fuse = nn.Sequential(nn.Conv2d(hidden, hidden, 1), nn.ReLU()) if fuse else nn.Identity()
        relu_convolutions(self)

    def trunk(self, features: Features) -> Float[Tensor, "b w h4 w4"]:
        """The sum of all levels at stride 4, where configured fused."""
        maps = [path(features[name]) for path, name in zip(self.paths, (*LEVELS, "pool"), strict=False)]
        size = maps[0].shape[-2:]
        same = (
            m if m.shape[-2:] == size else F.interpolate(m, size, mode="bilinear", align_corners=self.align_corners)
            for m in maps
        )
        return self.fuse(sum(same))


def pyramid_path(
    in_channels: int, hidden: int, level: int, bias: bool = False, align_corners: bool = False
) -> nn.Sequential:
    """From level ``level`` (0 is P2) to stride 4: a 3x3 convolution for every doubling, and one where there is none."""
    layers: list[nn.Module] = []
    for step in range(max(1, level)):
        layers += _convolution(hidden if step else in_channels, hidden, bias)
        if level > 0:
            layers.append(nn.Upsample(scale_factor=2, mode="bilinear", align_corners=align_corners))
    return nn.Sequential(*layers)


class DeepPredictor(nn.Sequential):
    """``convs`` times [3x3 convolution to ``hidden`` channels, GroupNorm, ReLU], then a 1x1 convolution to the
    classes.  With two this is H_sem of REFINE (Ren et al., AAAI 2021, Figure 3; the paper does not give its layers)."""

    def __init__(self, in_channels: int, hidden: int, classes: int, convs: int = 2) -> None:
        widths = (in_channels, *[hidden] * (convs - 1))
        layers = [layer for width in widths for layer in _convolution(width, hidden)]
        super().__init__(*layers, nn.Conv2d(hidden, classes, 1))


def _convolution(before: int, after: int, bias: bool = False) -> list[nn.Module]:
    return [nn.Conv2d(before, after, 3, padding=1, bias=bias), nn.GroupNorm(32, after), nn.ReLU()]
