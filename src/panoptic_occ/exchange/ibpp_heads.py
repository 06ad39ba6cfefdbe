"""The heads that IBPP adds for its iterations (REFINE, Figure 3)."""

from __future__ import annotations

from torch import nn
from torchvision.models.detection.mask_rcnn import MaskRCNNPredictor

from panoptic_occ.thing.mask_head import MaskNorm, mask_head


class MaskHead(nn.Module):
    """The mask head of an iteration after the first; named like the parts of torchvision's RoIHeads."""

    def __init__(self, in_channels: int, convs: int, norm: MaskNorm, classes: int) -> None:
        super().__init__()
        self.mask_head = mask_head(in_channels, convs, norm)
        self.mask_predictor = MaskRCNNPredictor(in_channels, in_channels, classes)
        nn.init.normal_(self.mask_predictor[-1].weight, std=0.001)
        nn.init.zeros_(self.mask_predictor[-1].bias)
