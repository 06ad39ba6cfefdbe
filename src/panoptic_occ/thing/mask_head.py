"""The convolutions of the mask head, and its loss."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads

from panoptic_occ.structures.target import Target
from panoptic_occ.thing.base import Rois
from panoptic_occ.thing.pooling import Grid, roi_align

MaskNorm = Literal["group"] | None


def mask_head(in_channels: int, convs: int, norm: MaskNorm) -> MaskRCNNHeads:
    """``convs`` 3x3 convolutions with ReLU, GroupNorm between the two for ``group`` (REFINE's base)."""
    return MaskRCNNHeads(in_channels, (in_channels,) * convs, 1, partial(nn.GroupNorm, 32) if norm else None)


def mask_loss(
    mask_logits: Float[Tensor, "n k s s"], rois: Sequence[Rois], targets: Sequence[Target]
) -> Float[Tensor, ""]:
    """Mean binary cross-entropy of the annotation's class channel against its mask, resampled into each RoI.  Targets
    are sampled at pixel centres and cut at one half, as in ``paste_masks``.  No RoI: 0 with a graph."""
    if len(mask_logits) == 0:
        return mask_logits.sum() * 0
    size = mask_logits.shape[-1]
    truth, classes = [], []
    for r, target in zip(rois, targets, strict=True):
        if len(r) == 0:
            continue
        assert r.matches is not None
        dense = target.masks.dense()[:, None].float()  # and so the boxes: bfloat16 knows no odd pixel beyond 256
        indexed = torch.cat([r.matches[:, None].to(r.boxes), r.boxes], dim=1)
        truth.append(roi_align(dense, indexed.float(), Grid(size))[:, 0] >= 0.5)
        classes.append(target.labels[r.matches] + 1)
    logits = mask_logits[torch.arange(len(mask_logits), device=mask_logits.device), torch.cat(classes)]
    return F.binary_cross_entropy_with_logits(logits.float(), torch.cat(truth).float())
