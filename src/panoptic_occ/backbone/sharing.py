"""How much of the backbone the stuff branch shares with the thing branch (Liu et al., CVPR 2019, Table 4)."""

from __future__ import annotations

from copy import deepcopy
from typing import Literal

from torch import Tensor, nn

from panoptic_occ.common.errors import ConfigError, did_you_mean

Share = Literal["fpn", "backbone", "none"]
SHARES = ("fpn", "backbone", "none")
STUFF = "stuff/"
"""What the names of the stuff branch's own levels begin with; ``exchange.base.Pyramids`` reads them."""


def share_features(backbone: nn.Module, share: Share) -> nn.Module:
    """``backbone`` with as much of its own for the stuff branch as ``share`` leaves it.

    ``fpn``: nothing, both branches read one pyramid (the backbone is given back as it is).  ``backbone``: a pyramid.
    ``none``: a whole network.  What is not shared starts as a copy, so that pretrained weights serve both branches and
    the thing branch starts as it would without.  Raises ConfigError for a backbone that has no part ``fpn``.
    """
    if share not in SHARES:
        raise ConfigError(f"share={share!r} is unknown; {did_you_mean(share, SHARES)}")
    if share == "fpn":
        return backbone
    if share == "none":
        return OwnFeatures(backbone)
    pyramid = getattr(backbone, "fpn", None)
    if not isinstance(pyramid, nn.Module):
        raise ConfigError(
            f"share=backbone gives the stuff branch a pyramid of its own, and {type(backbone).__name__} has no module "
            "'fpn' to copy; use share=fpn or share=none, or a backbone with a feature pyramid"
        )
    backbone.fpn = OwnFeatures(pyramid)
    return backbone


class OwnFeatures(nn.Module):
    """Two equal modules on one input, the second for the stuff branch: its levels are named ``stuff/0``, ...

    ``thing``: what gives the features, a whole backbone (image in) or a pyramid (the maps of the stages in).
    """

    def __init__(self, thing: nn.Module) -> None:
        super().__init__()
        self.thing = thing
        self.stuff = deepcopy(thing)
        self.out_channels = getattr(thing, "out_channels", None)

    def forward(self, x: Tensor | dict[str, Tensor]) -> dict[str, Tensor]:
        """The levels of both branches in one dictionary."""
        own = {f"{STUFF}{name}": level for name, level in self.stuff(x).items()}
        features: dict[str, Tensor] = self.thing(x) | own
        return features
