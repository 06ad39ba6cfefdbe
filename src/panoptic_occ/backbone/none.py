"""No network at all, for the oracle base that reads the annotations."""

from __future__ import annotations

from torch import Tensor, nn

from panoptic_occ.structures.sample import Features


class NoBackbone(nn.Module):
    """Gives no features."""

    out_channels = 0

    def forward(self, x: Tensor) -> Features:
        """An empty pyramid."""
        return {}
