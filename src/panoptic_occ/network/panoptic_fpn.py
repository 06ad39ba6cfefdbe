"""Backbone, thing branch, stuff branch and occlusion module, wired together without any framework."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from panoptic_occ.exchange.base import Exchange, Inputs, Outputs, Pyramids
from panoptic_occ.network.tta import REQUIRES, FixedRois, TestTimeAugmentation, averaged
from panoptic_occ.occlusion.base import OcclusionModel, TrainingExample
from panoptic_occ.structures.base_output import BaseOutput
from panoptic_occ.structures.masks import PairStats
from panoptic_occ.structures.sample import Batch, Requires, Sample
from panoptic_occ.stuff.base import StuffBranch
from panoptic_occ.thing.base import ThingBranch

SIZE_DIVISOR = 32


class PanopticFPN(nn.Module):
    """Panoptic FPN (Kirillov et al. 2019), or what an exchange makes of it, with an occlusion module on top.

    ``loss_weights``: ``thing`` (lambda_i) and ``stuff`` (lambda_s), or any loss by its name; see ``conf/schedule``.
    ``pixel_mean``, ``pixel_std``: of RGB in 0..255, applied on the device.
    ``channels_last``: memory format of weights and images; on a CPU, images at test have it anyway, see ``batch``.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(
        self,
        backbone: nn.Module,
        thing: ThingBranch,
        stuff: StuffBranch,
        exchange: Exchange,
        occlusion: OcclusionModel,
        loss_weights: Mapping[str, float],
        pixel_mean: Sequence[float] = (123.675, 116.28, 103.53),
        pixel_std: Sequence[float] = (58.395, 57.12, 57.375),
        channels_last: bool = False,
    ) -> None:
        super().__init__()
        self.backbone, self.thing, self.stuff = backbone, thing, stuff
        self.exchange, self.occlusion = exchange, occlusion
        self.loss_weights = dict(loss_weights)
        self.num_things = occlusion.categories.num_things
        self.tta = TestTimeAugmentation()  # evaluations may set another
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean)[:, None, None], persistent=False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std)[:, None, None], persistent=False)
        if channels_last:
            self.to(memory_format=torch.channels_last)

    def base_modules(self) -> dict[str, nn.Module]:
        """What stage 1 trains and stage 2 freezes, by name."""
        return {"backbone": self.backbone, "thing": self.thing, "stuff": self.stuff, "exchange": self.exchange}

    def base_learns(self) -> bool:
        """Whether stage 1 has anything to train; a base that reads the annotations has not."""
        return any(next(part.parameters(), None) is not None for part in self.base_modules().values())

    def batch(self, samples: Sequence[Sample], training: bool = True) -> Batch:
        """Normalises the images and pads them to one size, a multiple of 32.

        Without ``training`` of the base, images on a CPU are in ``channels_last``: all maps follow the layout of the
        image, convolutions are faster in it there, and RoIAlign needs no copy.
        """
        sizes = [(int(s.image.shape[1]), int(s.image.shape[2])) for s in samples]
        height, width = (-(-max(edge) // SIZE_DIVISOR) * SIZE_DIVISOR for edge in zip(*sizes, strict=True))
        tensors = self.pixel_mean.new_zeros((len(samples), 3, height, width))
        for slot, sample, (h, w) in zip(tensors, samples, sizes, strict=True):
            slot[:, :h, :w] = (sample.image - self.pixel_mean) / self.pixel_std
        on_cpu = tensors.device.type == "cpu"
        layout = torch.channels_last if on_cpu and not training else self.memory_format
        return Batch(tensors.contiguous(memory_format=layout), tuple(sizes), tuple(samples))

    def base_losses(self, samples: Sequence[Sample]) -> dict[str, Float[Tensor, ""]]:
        """Stage 1: the weighted losses of thing and stuff branch; the total is their sum."""
        losses = self.exchange.losses(self._inputs(self.batch(samples)))
        weight = self.loss_weights
        return {
            name: weight.get(name, weight[branch]) * loss
            for branch, named in losses._asdict().items()
            for name, loss in named.items()
        }

    def occlusion_losses(self, samples: Sequence[Sample], generator: torch.Generator) -> dict[str, Float[Tensor, ""]]:
        """Stage 2: the losses of the occlusion module on positive proposals of the frozen base, or on annotations."""
        return self.occlusion.loss(self._examples(samples), generator)

    @torch.no_grad()
    def _examples(self, samples: Sequence[Sample]) -> list[TrainingExample]:
        if self.occlusion.learns_from == "annotations":
            return [TrainingExample.of_annotations(sample.annotations) for sample in samples]
        batch = self.batch(samples, training=False)  # nothing of the base learns
        trainable = [self.occlusion.trainable_annotations(target) for target in batch.targets]
        # on COCO, three of five images have no two things of which one hides a significant part of the other
        teach = [k for k, annotations in enumerate(trainable) if annotations.any()]
        if not teach:
            return [TrainingExample.without_instances(batch.targets[0], self.occlusion.in_channels)]
        if len(teach) < len(trainable):
            batch, trainable = batch[teach], [trainable[k] for k in teach]
        positives = self.exchange.positives(self._inputs(batch), self.occlusion.requires, trainable)
        return [
            TrainingExample(instances, matches, target)
            for (instances, matches), target in zip(positives, batch.targets, strict=True)
        ]

    @torch.no_grad()
    def base_outputs(
        self, samples: Sequence[Sample], conf_thr: float, requires: Requires = frozenset()
    ) -> list[BaseOutput]:
        """Detections with ``score >= conf_thr`` and the stuff of every image, in its original frame.

        They are a function of the image alone: it is never padded to the size of another one, which would reach
        GroupNorm and its borders, and never computed together with others, which rounds differently.
        """
        return [self._base_output(sample, conf_thr, requires) for sample in samples]

    def _base_output(self, sample: Sample, conf_thr: float, requires: Requires) -> BaseOutput:
        if self.tta.views:
            (instances,), (semantic,) = self._augmented([sample], conf_thr, requires | REQUIRES)
        else:
            (instances,), (semantic,) = self._outputs([sample], conf_thr, requires)
        return BaseOutput(instances, PairStats.of(instances.masks), semantic)

    def _outputs(self, samples: Sequence[Sample], conf_thr: float, requires: Requires) -> Outputs:
        return self.exchange.outputs(self._inputs(self.batch(samples, training=False)), conf_thr, requires)

    def _augmented(self, samples: Sequence[Sample], conf_thr: float, requires: Requires) -> Outputs:
        """The averages over all views, each with the boxes of the plain one, which the stuff branch sees, too."""
        plain = self._outputs(samples, min(conf_thr, self.exchange.shown_thr), requires)
        others, before = [], self.thing.oracle
        try:
            for view in self.tta.views:
                self.thing.use_oracle(FixedRois(view, plain[0]))
                others.append((view, self._outputs([view.show(sample) for sample in samples], 0.0, REQUIRES)))
        finally:
            self.thing.use_oracle(before)
        detections, maps = averaged(plain, others, self.num_things)
        return [instances[instances.scores >= conf_thr] for instances in detections], maps

    def _inputs(self, batch: Batch) -> Inputs:
        return Inputs(self.thing, self.stuff, Pyramids.of(self.backbone(batch.images)), batch)
