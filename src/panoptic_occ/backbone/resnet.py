"""ResNet and ResNeXt backbones with a feature pyramid, from torchvision."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated, Literal

import torch
from annotated_types import Interval
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import get_model, get_model_weights
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.resnet import Bottleneck, ResNet
from torchvision.ops import FrozenBatchNorm2d

from panoptic_occ.backbone.deformable import DeformableConv
from panoptic_occ.common.errors import ConfigError, did_you_mean
from panoptic_occ.config.values import checked


class FrozenNorm(FrozenBatchNorm2d):
    """torchvision's BatchNorm of fixed statistics, as one kernel without a gradient; half precision stays."""

    def forward(self, x: Tensor) -> Tensor:
        """``(x - mean) / sqrt(var + eps) * weight + bias``, channel by channel."""
        if torch.is_grad_enabled() and x.dtype == self.weight.dtype:
            return super().forward(x)
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)


Norm = Literal["frozen", "batch"]
NORMS: dict[Norm, Callable[..., nn.Module]] = {"frozen": FrozenNorm, "batch": nn.BatchNorm2d}
OURS: dict[str, Callable[[Callable[..., nn.Module]], ResNet]] = {
    "resnext152_32x8d": lambda norm: ResNet(Bottleneck, [3, 8, 36, 3], groups=32, width_per_group=8, norm_layer=norm)
}
"""Networks of torchvision's blocks for which it has no name and no weights."""
STAGES = ("conv1", "layer1", "layer2", "layer3", "layer4")


@checked("backbone")
def resnet_fpn(
    name: str = "resnet50",
    weights: str | None = None,
    out_channels: int = 256,
    norm: Norm = "frozen",
    frozen_stages: Annotated[int, Interval(ge=0, le=5)] = 0,
    fpn_norm: Literal["group"] | None = None,
    deformable_stages: Annotated[int, Interval(ge=0, le=4)] = 0,
) -> BackboneWithFPN:
    """``name`` of torchvision (resnet18 .. resnext101_32x8d), or resnext152_32x8d, with an FPN of ``out_channels``.

    ``weights``: torchvision's name of pretrained weights (``IMAGENET1K_V2``), downloaded on first use, or None.
    ``norm``: ``frozen`` BatchNorm (affine constants, for pretrained weights) or trainable ``batch`` norm.
    ``frozen_stages``: that many stages from the stem on get no gradient (2 = stem and layer1, as in detectron2).
    ``fpn_norm``: none in the pyramid, or GroupNorm (REFINE's base).
    ``deformable_stages``: in that many stages from the last on (3 = res3 to res5, RAP), every 3x3 convolution of a
    bottleneck is deformable (version 1), and begins as what the weights make of it.
    Returns a module: image (B,3,H,W) -> dict of P2..P6 under the keys 0..3 and pool.
    """
    if weights is not None:
        allowed = [] if name in OURS else [w.name for w in get_model_weights(name)]
        if weights not in allowed:
            hint = did_you_mean(weights, allowed) if allowed else "there are none; set backbone.weights=null"
            raise ConfigError(f"backbone.weights={weights!r} is unknown for {name}; {hint}")
    if frozen_stages > 0 and (norm == "batch" or weights is None):
        what = "with norm=batch would go on counting" if norm == "batch" else "without weights freezes random filters"
        raise ConfigError(
            f"backbone.frozen_stages={frozen_stages} {what}; set backbone.norm=frozen and backbone.weights, or "
            "backbone.frozen_stages=0"
        )
    try:
        body = OURS[name](NORMS[norm]) if name in OURS else get_model(name, weights=weights, norm_layer=NORMS[norm])
    except OSError as error:
        raise ConfigError(
            f"backbone.weights={weights}: cannot be loaded ({error}); without a network, put torchvision's file "
            f"into {torch.hub.get_dir()}/checkpoints, or train from scratch with backbone.weights=null"
        ) from error
    _deform(body, deformable_stages)
    for stage in STAGES[:frozen_stages]:
        for module in (getattr(body, stage), *([body.bn1] if stage == "conv1" else [])):
            module.requires_grad_(False)
    widths = [body.inplanes // 8 * 2**k for k in range(4)]
    layers = {stage: str(k) for k, stage in enumerate(STAGES[1:])}
    norm_layer = partial(nn.GroupNorm, 32) if fpn_norm else None
    return BackboneWithFPN(body, layers, widths, out_channels, norm_layer=norm_layer)


def _deform(body: ResNet, stages: int) -> None:
    """Makes the 3x3 convolutions of the last ``stages`` deformable, in place; ConfigError without bottlenecks."""
    for stage in STAGES[len(STAGES) - stages :]:
        for block in getattr(body, stage):
            if not isinstance(block, Bottleneck):
                raise ConfigError(f"backbone.deformable_stages={stages} needs bottlenecks, from resnet50 on; or set 0")
            block.conv2 = DeformableConv.like(block.conv2)
