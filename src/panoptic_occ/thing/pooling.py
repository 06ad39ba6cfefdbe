"""RoIAlign over the levels of a feature pyramid."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torchvision.ops import roi_align
from torchvision.ops.poolers import initLevelMapper

LEVELS = ("0", "1", "2", "3")
"""P2..P5, at strides 4, 8, 16, 32; P6 (``pool``) serves the proposals only."""


class PyramidRoIAlign(nn.Module):
    """RoIAlign of every box on the level that fits its size (FPN, Eq. 1: sqrt(area) = 224 px reads from P4).

    ``aligned``: sample at pixel centres, as detectron2 does; False shifts by half a pixel, as torchvision's models do.
    """

    def __init__(self, output_size: int, sampling_ratio: int = 2, aligned: bool = True) -> None:
        super().__init__()
        self.output_size = output_size
        self.sampling_ratio = sampling_ratio
        self.aligned = aligned
        self.level_of = initLevelMapper(k_min=2, k_max=5)

    def forward(
        self, features: dict[str, Tensor], boxes: Sequence[Float[Tensor, "n 4"]], image_sizes: object = None
    ) -> Float[Tensor, "m c s s"]:
        """Features of all boxes, image after image; ``image_sizes`` is what torchvision passes, and not needed."""
        image = torch.cat([torch.full_like(b[:, :1], i) for i, b in enumerate(boxes)])
        rois = torch.cat([image, torch.cat(list(boxes))], dim=1)
        level = self.level_of(list(boxes))
        first = features[LEVELS[0]]
        out = first.new_zeros((len(rois), first.shape[1], self.output_size, self.output_size))
        for k, name in enumerate(LEVELS):
            chosen = (level == k).nonzero().flatten()
            if len(chosen) == 0 and not self.training:
                continue
            pooled = roi_align(
                features[name],
                rois[chosen].to(features[name].dtype),
                self.output_size,
                spatial_scale=1 / 2 ** (k + 2),
                sampling_ratio=self.sampling_ratio,
                aligned=self.aligned,
            )
            out = out.index_copy(0, chosen, pooled)
        return out
