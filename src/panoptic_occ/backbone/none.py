"""No network at all, for the oracle base that reads the annotations."""

from __future__ import annotations

from torch import Tensor, nn


class NoBackbone(nn.Module):
    """Gives no features."""

    out_channels = 0

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """An empty pyramid."""
        return {}
