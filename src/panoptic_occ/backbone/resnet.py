"""ResNet and ResNeXt backbones with a feature pyramid, from torchvision."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import get_model, get_model_weights
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.ops import FrozenBatchNorm2d

from panoptic_occ.errors import ConfigError, did_you_mean


class FrozenNorm(FrozenBatchNorm2d):
    """torchvision's BatchNorm of fixed statistics, as one kernel instead of two where there is no gradient.

    Half precision stays half precision.
    """

    def forward(self, x: Tensor) -> Tensor:
        """``(x - mean) / sqrt(var + eps) * weight + bias``, channel by channel."""
        if torch.is_grad_enabled() and x.dtype == self.weight.dtype:
            normed: Tensor = super().forward(x)
            return normed
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)


NORMS: dict[str, Callable[..., nn.Module]] = {"frozen": FrozenNorm, "batch": nn.BatchNorm2d}
STAGES = ("conv1", "layer1", "layer2", "layer3", "layer4")


def resnet_fpn(
    name: str = "resnet50",
    weights: str | None = None,
    out_channels: int = 256,
    norm: Literal["frozen", "batch"] = "frozen",
    frozen_stages: int = 0,
    fpn_norm: Literal["group"] | None = None,
) -> BackboneWithFPN:
    """``name`` of torchvision (resnet18 .. resnext101_32x8d) with an FPN of ``out_channels``.

    ``weights``: torchvision's name of pretrained weights (``IMAGENET1K_V2``), downloaded on first use, or None.
    ``norm``: ``frozen`` BatchNorm (affine constants, for pretrained weights) or trainable ``batch`` norm.
    ``frozen_stages``: that many stages from the stem on get no gradient (2 = stem and layer1, as in detectron2).
    ``fpn_norm``: none in the pyramid, or GroupNorm (REFINE's base).
    Returns a module: image (B,3,H,W) -> dict of P2..P6 under the keys 0..3 and pool.
    """
    if norm not in NORMS:
        raise ConfigError(f"backbone.norm={norm!r} is unknown; {did_you_mean(norm, NORMS)}")
    if not 0 <= frozen_stages <= len(STAGES):
        raise ConfigError(f"backbone.frozen_stages={frozen_stages} must lie in 0..{len(STAGES)}")
    if weights is not None:
        allowed = [w.name for w in get_model_weights(name)]
        if weights not in allowed:
            raise ConfigError(f"backbone.weights={weights!r} is unknown for {name}; {did_you_mean(weights, allowed)}")
    elif norm == "frozen" and frozen_stages > 0:
        raise ConfigError(
            f"backbone.frozen_stages={frozen_stages} without pretrained weights would freeze random filters; "
            "set backbone.weights or backbone.frozen_stages=0"
        )
    if norm == "batch" and frozen_stages > 0:
        raise ConfigError(
            f"backbone.frozen_stages={frozen_stages} with norm=batch: BatchNorm would go on counting there; "
            "set backbone.norm=frozen or backbone.frozen_stages=0"
        )
    try:
        body = get_model(name, weights=weights, norm_layer=NORMS[norm])
    except OSError as error:
        raise ConfigError(
            f"backbone.weights={weights}: cannot be loaded ({error}); without a network, put torchvision's file "
            f"into {torch.hub.get_dir()}/checkpoints, or train from scratch with backbone.weights=null"
        ) from error
    for stage in STAGES[:frozen_stages]:
        frozen = [getattr(body, stage), *([body.bn1] if stage == "conv1" else [])]
        for module in frozen:
            module.requires_grad_(False)
    width = body.inplanes // 8
    returned = {f"layer{k + 1}": str(k) for k in range(4)}
    layer = partial(nn.GroupNorm, 32) if fpn_norm else None
    return BackboneWithFPN(body, returned, [width * 2**k for k in range(4)], out_channels, norm_layer=layer)
