"""The semantic head of Panoptic FPN (Kirillov et al. 2019, section 3.1 and Figure 3)."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from panoptic_occ.categories import Categories
from panoptic_occ.errors import ConfigError, did_you_mean
from panoptic_occ.structures import VOID_LABEL, Batch
from panoptic_occ.stuff.base import StuffBranch

LEVELS = ("0", "1", "2", "3")


class PanopticFPNHead(StuffBranch):
    """P2..P5 each to stride 4 by [3x3 conv, GroupNorm, ReLU, x2 bilinear] steps, summed, 1x1 conv to the classes.

    ``things``: ``collapsed`` (one class for all things, then the stuff classes) or ``dense`` (every thing class too).
    ``hidden``: channels, half of ``in_channels`` by default (128 for 256).
    ``loss_norm``: mean over ``valid`` pixels (detectron2), or over ``all`` pixels, void included (OCFusion's code).
    """

    def __init__(
        self,
        *,
        in_channels: int,
        categories: Categories,
        things: Literal["collapsed", "dense"] = "collapsed",
        hidden: int | None = None,
        loss_norm: Literal["valid", "all"] = "valid",
    ) -> None:
        super().__init__()
        for key, value, allowed in (
            ("things", things, ("collapsed", "dense")),
            ("loss_norm", loss_norm, ("valid", "all")),
        ):
            if value not in allowed:
                raise ConfigError(f"stuff.{key}={value!r} is unknown; {did_you_mean(value, allowed)}")
        self.loss_norm = loss_norm
        self.num_things = categories.num_things
        offset = self.num_things - 1 if things == "collapsed" else 0
        self.offset = offset  # contiguous label of class c is c + offset, where that is a stuff label
        hidden = max(in_channels // 2, 32) if hidden is None else hidden
        self.paths = nn.ModuleList(self._path(in_channels, hidden, level) for level in range(len(LEVELS)))
        self.predictor = nn.Conv2d(hidden, len(categories) - offset, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        self.predictor.bias = nn.Parameter(torch.zeros(self.predictor.out_channels))

    @staticmethod
    def _path(in_channels: int, hidden: int, level: int) -> nn.Sequential:
        layers: list[nn.Module] = []
        for step in range(max(1, level)):
            width = in_channels if step == 0 else hidden
            layers += [nn.Conv2d(width, hidden, 3, padding=1, bias=False), nn.GroupNorm(32, hidden), nn.ReLU()]
            if level > 0:
                layers.append(nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False))
        return nn.Sequential(*layers)

    def forward(self, features: dict[str, Tensor]) -> Float[Tensor, "b c h4 w4"]:
        """Logits at stride 4."""
        maps = [path(features[name]) for path, name in zip(self.paths, LEVELS, strict=True)]
        logits: Tensor = self.predictor(sum(maps))
        return logits

    def losses(self, features: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """``stuff``: cross-entropy at full resolution; the padding of the batch is void."""
        return {"stuff": self.loss(self(features), semantic_target(batch))}

    def loss(self, logits: Float[Tensor, "b c h4 w4"], semantic: Int[Tensor, "b h w"]) -> Float[Tensor, ""]:
        """Cross-entropy at full resolution; ``semantic`` holds contiguous labels, ``VOID_LABEL`` is ignored."""
        truth = (semantic - self.offset).clamp(min=0).masked_fill(semantic == VOID_LABEL, VOID_LABEL)
        full = F.interpolate(logits.float(), scale_factor=4, mode="bilinear", align_corners=False)
        total = F.cross_entropy(full, truth, ignore_index=VOID_LABEL, reduction="sum")
        count = truth.numel() if self.loss_norm == "all" else int((truth != VOID_LABEL).sum())
        return total / max(1, count)

    @torch.no_grad()
    def label_maps(self, features: dict[str, Tensor], batch: Batch) -> list[Int[Tensor, "h w"]]:
        """Arg-max of the logits, cropped to the unpadded input before the resize to the original size."""
        maps = []
        for logits, inside, sample in zip(self(features), batch.sizes, batch.samples, strict=True):
            full = F.interpolate(logits[None].float(), scale_factor=4, mode="bilinear", align_corners=False)
            full = full[..., : inside[0], : inside[1]]
            if tuple(inside) != tuple(sample.original_size):
                full = F.interpolate(full, size=sample.original_size, mode="bilinear", align_corners=False)
            label = full[0].argmax(dim=0) + self.offset
            maps.append(torch.where(label < self.num_things, VOID_LABEL, label))
        return maps


def semantic_target(batch: Batch) -> Int[Tensor, "b h w"]:
    """Contiguous labels of a padded batch; the padding is void."""
    height, width = batch.images.shape[-2:]
    labels = [target.semantic() for target in batch.targets]
    return torch.stack([F.pad(t, (0, width - t.shape[1], 0, height - t.shape[0]), value=VOID_LABEL) for t in labels])
