"""How much of the backbone the stuff branch shares with the thing branch (Liu et al., CVPR 2019, Table 4)."""

from __future__ import annotations

from copy import deepcopy
from typing import Literal

from torch import Tensor, nn

from panoptic_occ.common.errors import ConfigError, check_choice
from panoptic_occ.structures.sample import Features

Share = Literal["fpn", "backbone", "none"]
STUFF = "stuff/"
"""What the names of levels begin with that only the stuff branch reads, see ``exchange.base.Pyramids``."""


def share_features(backbone: nn.Module, share: Share) -> nn.Module:
    """``backbone`` with a second copy, for the stuff branch, of everything that the branches do not share.

    ``fpn``: nothing is copied.  ``backbone``: the pyramid.  ``none``: the whole network.
    Copies begin equal, so that pretrained weights serve both branches and the thing branch starts as it would without.
    Raises ConfigError for a backbone without a part ``fpn``.
    """
    check_choice("share", share, Share)
    if share == "fpn":
        return backbone
    if share == "none":
        return OwnFeatures(backbone)
    if not isinstance(pyramid := getattr(backbone, "fpn", None), nn.Module):
        raise ConfigError(
            f"share=backbone gives the stuff branch a pyramid of its own, and {type(backbone).__name__} has no module "
            "'fpn' to copy; use share=fpn or share=none, or a backbone with a feature pyramid"
        )
    backbone.fpn = OwnFeatures(pyramid)
    return backbone


class OwnFeatures(nn.Module):
    """Two equal modules (backbones or pyramids) on one input; the second is for the stuff branch: its levels are called
    ``stuff/0``, ..."""

    def __init__(self, thing: nn.Module) -> None:
        super().__init__()
        self.thing = thing
        self.stuff = deepcopy(thing)
        self.out_channels = getattr(thing, "out_channels", None)

    def forward(self, x: Tensor | Features) -> Features:
        """The levels of both branches in one dictionary."""
        features: Features = self.thing(x)
        return features | {f"{STUFF}{name}": level for name, level in self.stuff(x).items()}
