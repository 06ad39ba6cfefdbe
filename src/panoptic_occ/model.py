"""The network: backbone, thing branch, stuff branch and occlusion module, wired together without any framework."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from panoptic_occ.masks import PairStats
from panoptic_occ.occlusion.base import OcclusionModel, TrainingExample
from panoptic_occ.structures import Batch, InstanceSet, Sample
from panoptic_occ.stuff.base import StuffBranch
from panoptic_occ.thing.base import ThingBranch

SIZE_DIVISOR = 32


@dataclass(frozen=True, eq=False)
class BaseOutput:
    """What the base sees in one image: ranked instances, their pair counts, and the stuff label of every pixel."""

    instances: InstanceSet
    stats: PairStats
    semantic: Int[Tensor, "h w"]


class PanopticFPN(nn.Module):
    """Panoptic FPN (Kirillov et al. 2019) with an occlusion module on top.

    ``loss_weights``: ``thing`` (lambda_i) and ``stuff`` (lambda_s), see ``conf/schedule``.
    ``pixel_mean``, ``pixel_std``: of RGB in 0..255, applied on the device.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(
        self,
        backbone: nn.Module,
        thing: ThingBranch,
        stuff: StuffBranch,
        occlusion: OcclusionModel,
        loss_weights: Mapping[str, float],
        pixel_mean: Sequence[float] = (123.675, 116.28, 103.53),
        pixel_std: Sequence[float] = (58.395, 57.12, 57.375),
        channels_last: bool = False,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.thing = thing
        self.stuff = stuff
        self.occlusion = occlusion
        self.loss_weights = dict(loss_weights)
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean)[:, None, None], persistent=False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std)[:, None, None], persistent=False)
        if channels_last:
            self.to(memory_format=torch.channels_last)

    def base_modules(self) -> dict[str, nn.Module]:
        """What stage 1 trains and stage 2 freezes, by name."""
        return {"backbone": self.backbone, "thing": self.thing, "stuff": self.stuff}

    def batch(self, samples: Sequence[Sample]) -> Batch:
        """Normalises the images and pads them to one size, a multiple of 32."""
        sizes = [(int(s.image.shape[1]), int(s.image.shape[2])) for s in samples]
        height, width = (-(-max(edge) // SIZE_DIVISOR) * SIZE_DIVISOR for edge in zip(*sizes, strict=True))
        tensors = self.pixel_mean.new_zeros((len(samples), 3, height, width))
        for slot, sample, (h, w) in zip(tensors, samples, sizes, strict=True):
            slot[:, :h, :w] = (sample.image - self.pixel_mean) / self.pixel_std
        images = tensors.contiguous(memory_format=self.memory_format)
        return Batch(images, tuple(sizes), tuple(samples))

    def base_losses(self, samples: Sequence[Sample]) -> dict[str, Float[Tensor, ""]]:
        """Stage 1: the weighted losses of thing and stuff branch; the total is their sum."""
        batch = self.batch(samples)
        features = self.backbone(batch.images)
        things = self.thing.losses(features, batch)
        stuff = self.stuff.losses(features, batch)
        weighted = {name: self.loss_weights["thing"] * loss for name, loss in things.items()}
        return weighted | {name: self.loss_weights["stuff"] * loss for name, loss in stuff.items()}

    def occlusion_losses(self, samples: Sequence[Sample], generator: torch.Generator) -> dict[str, Float[Tensor, ""]]:
        """Stage 2: the losses of the occlusion module on positive proposals of the frozen base."""
        with torch.no_grad():
            batch = self.batch(samples)
            features = self.backbone(batch.images)
            found = self.thing.positives(features, batch, self.occlusion.requires)
        examples = [
            TrainingExample(instances, PairStats.of(instances.masks), matches, target)
            for (instances, matches), target in zip(found, batch.targets, strict=True)
        ]
        return self.occlusion.loss(examples, generator)

    @torch.no_grad()
    def base_outputs(
        self, samples: Sequence[Sample], conf_thr: float, requires: frozenset[str] = frozenset()
    ) -> list[BaseOutput]:
        """Detections with ``score >= conf_thr`` and the stuff map of every image, in its original frame."""
        batch = self.batch(samples)
        features = self.backbone(batch.images)
        found = self.thing.detect(features, batch, conf_thr, requires)
        maps = self.stuff.label_maps(features, batch)
        return [
            BaseOutput(instances, PairStats.of(instances.masks), semantic)
            for instances, semantic in zip(found, maps, strict=True)
        ]
