"""Deformable 3x3 convolution (Dai et al., ICCV 2017) and its modulated form (Zhu et al., CVPR 2019)."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn
from torchvision.ops import DeformConv2d

from panoptic_occ.ops.initialise import zero_biases

TAPS = 9


class DeformableConv(nn.Module):
    """A 3x3 convolution that reads each tap at an offset which another 3x3 convolution predicts.

    Version 1 starts as a plain convolution: the offsets begin at zero (UPSNet).  ``modulated`` (version 2) also weighs
    each tap by a factor in (0, 1), and its offsets begin random (OCFusion's code).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        modulated: bool = False,
        bias: bool = True,
        stride: int = 1,
        groups: int = 1,
    ) -> None:
        super().__init__()
        self.modulated = modulated
        self.offset = nn.Conv2d(in_channels, (3 if modulated else 2) * TAPS, 3, stride, padding=1)
        self.conv = DeformConv2d(in_channels, out_channels, 3, stride, padding=1, groups=groups, bias=bias)
        if modulated:
            nn.init.kaiming_uniform_(self.offset.weight, a=1)
        else:
            nn.init.zeros_(self.offset.weight)
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")
        zero_biases(self)

    @staticmethod
    def like(conv: nn.Conv2d) -> DeformableConv:
        """Version 1 in place of a 3x3 convolution, with its weights: the same function until the offsets move."""
        layer = DeformableConv(
            conv.in_channels, conv.out_channels, bias=conv.bias is not None, stride=conv.stride[0], groups=conv.groups
        )
        layer.conv.load_state_dict(conv.state_dict())
        return layer

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b o y x"]:
        """The convolution of ``x`` at the predicted offsets, at every ``stride``-th pixel."""
        predicted = self.offset(x)
        factors = predicted[:, 2 * TAPS :].sigmoid() if self.modulated else None
        return self.conv(x, predicted[:, : 2 * TAPS], factors)
