"""Heads on RoI feature and soft mask of one instance or two (OCFusion, section 3.3; RAP and REFINE)."""

from __future__ import annotations

from collections.abc import Collection

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from panoptic_occ.ops.initialise import relu_convolutions, zero_biases
from panoptic_occ.structures.instances import InstanceSet

RoiMaps = Float[Tensor, "n c 14 14"]
ROI_SIZE = 14
PAIRS_AT_ONCE = {"cpu": 32, "cuda": 512}  # 13 and 206 MB per activation in float32 at 512 channels
FLAT_AT_ONCE = 512  # 50 MB; the gradient of fc1 is as large as its 25 million weights, so it is made once
SPLIT_FROM = 1.25  # pairs per instance from which the first convolution is cheaper once per instance than once per pair


class PairHead(nn.Module):
    """Four 3x3 convolutions and two linear layers on the joined inputs of two instances; no normalisation."""

    def __init__(self, in_channels: int, channels: int, hidden: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(2 * in_channels, channels, 3, padding=1)
        self.conv2, self.conv3 = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))
        self.conv4 = nn.Conv2d(channels, channels, 3, stride=2, padding=1)
        self.fc1 = nn.Linear(channels * (ROI_SIZE // 2) ** 2, hidden)
        self.project = nn.Linear(hidden, 1)
        initialise(self, last=self.project)

    def forward(self, x: RoiMaps, pairs: Int[Tensor, "p 2"]) -> Float[Tensor, " p"]:
        """Logits (float32) of "the first of the pair lies above the second"; ``pairs`` index ``x``."""
        return self.project(self.features(x, pairs)).squeeze(1).float()

    def features(self, x: RoiMaps, pairs: Int[Tensor, "p 2"]) -> Float[Tensor, "p hidden"]:
        """What the last layer reads."""
        (firsts, above), (seconds, below) = (torch.unique(role, return_inverse=True) for role in pairs.unbind(dim=1))
        split = 2 * len(pairs) > SPLIT_FROM * (len(firsts) + len(seconds))
        halves = self.first_halves(x[firsts], x[seconds]) if split else (x[firsts], x[seconds])
        at_once = PAIRS_AT_ONCE.get(x.device.type, PAIRS_AT_ONCE["cuda"])
        hidden = []
        for group in torch.stack([above, below]).split(FLAT_AT_ONCE, dim=1):
            flat = [self.convolved(*halves, chunk, split) for chunk in group.split(at_once, dim=1)]
            hidden.append(self.fc1(torch.cat(flat)).relu_())
        return torch.cat(hidden)

    def convolved(
        self, firsts: RoiMaps, seconds: RoiMaps, pairs: Int[Tensor, "2 p"], split: bool
    ) -> Float[Tensor, "p flat"]:
        """What ``fc1`` reads; ``split``: ``firsts`` and ``seconds`` are ``first_halves`` already."""
        # index_select, because its gradient is added row by row, and that of indexing number by number
        first, second = firsts.index_select(0, pairs[0]), seconds.index_select(0, pairs[1])
        y = first.add_(second) if split else self.conv1(torch.cat([first, second], dim=1))
        for conv in (self.conv2, self.conv3, self.conv4):
            y = conv(y.relu_())  # in place: fresh memory for every activation costs as much as the addition
        return y.relu_().flatten(1)

    def first_halves(self, firsts: RoiMaps, seconds: RoiMaps) -> tuple[Tensor, Tensor]:
        """What each instance adds to ``conv1`` as first and as second of a pair: a convolution of joined channels is a
        sum of two."""
        above, below = self.conv1.weight.chunk(2, dim=1)
        return F.conv2d(firsts, above, self.conv1.bias, padding=1), F.conv2d(seconds, below, padding=1)


def initialise(head: nn.Module, last: nn.Linear) -> None:
    """Weights of convolutions and linear layers as in the released code; biases 0, ``last`` almost 0."""
    relu_convolutions(head)
    for module in head.modules():
        if isinstance(module, nn.Linear) and module is not last:  # drawn once: a seed keeps its weights
            nn.init.kaiming_uniform_(module.weight, a=1)
    nn.init.normal_(last.weight, std=0.01)
    zero_biases(head)


def roi_inputs(instances: InstanceSet, inputs: Collection[str] = ("mask", "feature")) -> RoiMaps:
    """Soft mask, max-pooled to the size of the RoI feature, and that feature, as far as ``inputs`` names them."""
    if instances.soft is None or instances.roi_features is None:
        raise ValueError("the head needs instances.soft and instances.roi_features; see OcclusionModel.requires")
    masks = F.max_pool2d(instances.soft[:, None], kernel_size=2).to(instances.roi_features.dtype)
    parts = {"mask": masks, "feature": instances.roi_features}
    return torch.cat([part for name, part in parts.items() if name in inputs], dim=1)
