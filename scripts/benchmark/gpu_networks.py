"""Training and inference of the whole network on one device, for ``gpu``.

Networks have random weights and images are generated, so nothing is downloaded.  Every image has the number of
detections that is asked for: after the network has looked for boxes, they are replaced.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import numpy as np
import torch
from panoptic_occ.training.recipe import build_schedule

from panoptic_occ.config.compose import compose
from panoptic_occ.fusion.engine import fuse
from panoptic_occ.metrics.step_time import timed
from panoptic_occ.network.panoptic_fpn import PanopticFPN
from panoptic_occ.runs.plan import build_model
from panoptic_occ.structures.masks import PairStats
from panoptic_occ.structures.panoptic_map import PanopticMap, Segment
from panoptic_occ.structures.relation import Relation
from panoptic_occ.structures.sample import Sample
from panoptic_occ.testing import toy_target
from panoptic_occ.thing.base import RoiChange, Rois
from panoptic_occ.thing.mask_rcnn import MaskRCNN
from panoptic_occ.training.schedule import StageSchedule
from scripts.benchmark.growth import POLICY
from scripts.benchmark.inputs import LARGE, NUM_STUFF, NUM_THINGS, Size, categories, detections, smooth
from scripts.benchmark.stages import FUSION, OCCLUSION, PAIRS, StageClock, watched_model, wrapped

PRECISIONS = ("fp32", "bf16")
ANNOTATED = 8  # instances of a training image
STUFF = tuple(range(NUM_THINGS, NUM_THINGS + NUM_STUFF, 11))  # labels of the stuff around them
MASK_LOGIT = 2.0  # masks of random weights are noise; with this bias they fill their boxes, so that pairs overlap
NORMALISING, PROPOSALS, BOXES = "normalising", "proposals", "boxes"
STAGES = (NORMALISING, "backbone", PROPOSALS, BOXES, "thing", "stuff", PAIRS, OCCLUSION, FUSION)
NAMES = {"thing": "masks"}  # all that is left of the thing branch
MIB = 1 << 20


@dataclass(frozen=True)
class Scale:
    """How much is measured; ``words``: overrides of the configuration that make the network."""

    words: tuple[str, ...] = (
        "preset=coco", "method=ocfusion", "data.root=none",
        "backbone.weights=null", "backbone.norm=batch", "backbone.frozen_stages=0",  # random weights need statistics
    )  # fmt: skip
    size: Size = LARGE
    batch: int = 8
    channels: int = 256
    counts: tuple[int, ...] = (20, 100)
    repeats: int = 20
    warm_up: int = 3


@dataclass(frozen=True)
class Row:
    """Median milliseconds of something, at a precision and for a number of instances.

    ``images_per_s`` and ``peak_mib`` (torch's own allocations) are of training, ``pairs`` (of which one mask shares at
    least a fifth with the other) of relations.
    """

    part: str
    name: str
    ms: float
    precision: str = ""
    instances: int | None = None
    images_per_s: float | None = None
    peak_mib: float | None = None
    pairs: int | None = None


def training(scale: Scale, device: torch.device) -> list[Row]:
    """A step of both stages at every precision: losses, gradients, optimiser."""
    samples = [annotated_sample(scale.size, seed).to(device) for seed in range(scale.batch)]
    schedule = build_schedule(compose(scale.words))
    rows = []
    for precision in PRECISIONS:
        model = network(scale, device)
        for stage in ("base", "occlusion"):
            step = training_step(model, samples, precision, stage, schedule.stage(stage, scale.batch))
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats()
            ms = median_ms(step, scale)
            peak = torch.cuda.max_memory_allocated() / MIB if device.type == "cuda" else None
            per_s = 1000 * scale.batch / ms
            rows.append(Row("training", stage, ms, precision, images_per_s=per_s, peak_mib=peak))
    return rows


def training_step(
    model: PanopticFPN, samples: Sequence[Sample], precision: str, stage: str, plan: StageSchedule
) -> Callable[[], None]:
    """One iteration of a stage, as the trainer runs it."""
    model.requires_grad_(True).train()
    for frozen in [model.occlusion] if stage == "base" else model.base_modules().values():
        frozen.requires_grad_(False).eval()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer, scheduler = plan.optimize(trained)
    generator = torch.Generator().manual_seed(0)

    def step() -> None:
        with autocast(samples[0].image.device, precision):
            losses = model.base_losses(samples) if stage == "base" else model.occlusion_losses(samples, generator)
        optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        optimizer.step()
        scheduler.step()

    return step


@torch.no_grad()
def inference(scale: Scale, device: torch.device) -> list[Row]:
    """One image to its map: every stage, which is waited for, then the whole without waiting in between."""
    sample = annotated_sample(scale.size, 0).to(device)
    rows = []
    for precision, channels_last in itertools.product(PRECISIONS, (False, True)):
        model = network(scale, device, channels_last).eval()
        name = f"{precision} channels_last" if channels_last else precision
        for count in scale.counts:
            model.thing.use_oracle(found_boxes(count, scale.size, device))
            clocks = [staged(model, sample, precision) for _ in range(scale.warm_up + scale.repeats)][scale.warm_up :]
            whole = median_ms(partial(panoptic, model, sample, precision, StageClock(time.perf_counter)), scale)
            for stage in STAGES:
                ms = 1000 * statistics.median(clock.seconds[stage] for clock in clocks)
                rows.append(Row("inference", NAMES.get(stage, stage), ms, name, count))
            rows.append(Row("inference", "all, without waiting", whole, name, count))
    return rows


def staged(model: PanopticFPN, sample: Sample, precision: str) -> StageClock:
    """``panoptic`` with the time of every stage."""
    clock = StageClock()
    assert isinstance(model.thing, MaskRCNN)
    with ExitStack() as stack:
        stack.enter_context(watched_model(clock, model))
        finer = (model.thing.rpn, "forward", PROPOSALS), (model.thing, "find", BOXES), (PairStats, "of", PAIRS)
        for owner, name, stage in finer:
            stack.enter_context(wrapped(clock, owner, name, stage))
        panoptic(model, sample, precision, clock)
    return clock


def panoptic(model: PanopticFPN, sample: Sample, precision: str, clock: StageClock) -> PanopticMap:
    """The map of one image."""
    with autocast(sample.image.device, precision):
        with clock.stage(NORMALISING):  # all that is left of it when the network's stages have taken theirs
            (output,) = model.base_outputs([sample], POLICY.conf_thr, model.occlusion.requires)
        with clock.stage(OCCLUSION):
            relation: Relation = model.occlusion(output.instances, output.stats)
        with clock.stage(FUSION):
            return fuse(output.instances, output.stats, relation, output.semantic.labels, POLICY)


@dataclass(frozen=True)
class GeneratedBoxes:
    """Replaces what the network has found in every image by the same regions."""

    rois: Rois
    fixes_boxes: ClassVar[bool] = True

    def __call__(self, own: Sequence[Rois], *_: object) -> list[Rois]:
        """The regions, once for every image."""
        return [self.rois] * len(own)


def found_boxes(count: int, size: Size, device: torch.device) -> RoiChange:
    """``count`` generated boxes in every image."""
    found = detections(count, size)
    return GeneratedBoxes(Rois(*(part.to(device) for part in (found.boxes, found.labels, found.scores))))


def network(scale: Scale, device: torch.device, channels_last: bool = False) -> PanopticFPN:
    """A network of random weights whose batch norms know an image, so that its features keep their scale."""
    model = build_model(compose([*scale.words, f"channels_last={channels_last}"]), categories()).to(device)
    assert isinstance(model.thing, MaskRCNN)
    norms = [module for module in model.backbone.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    with torch.no_grad():
        model.thing.roi_heads.mask_predictor.mask_fcn_logits.bias.fill_(MASK_LOGIT)
        for norm in norms:
            norm.momentum = 1.0
        model.train().backbone(model.batch([annotated_sample(scale.size, 0).to(device)]).images)
        for norm in norms:
            norm.momentum = 0.1
    return model


def annotated_sample(size: Size, seed: int) -> Sample:
    """An image of coloured patches, annotated with ``ANNOTATED`` things in front of a few kinds of stuff."""
    rng = np.random.default_rng([seed, *size])
    found = detections(ANNOTATED, size, seed)
    target = toy_target(found.instances().masks.dense(), found.labels)
    kind = smooth(rng, len(STUFF), (4, 5), size).argmax(dim=0).to(torch.int32) + ANNOTATED + 1
    ids = torch.where(target.panoptic.ids > 0, target.panoptic.ids, kind).to(torch.int32)
    areas = torch.bincount(ids.flatten(), minlength=ANNOTATED + 1 + len(STUFF))[ANNOTATED + 1 :].tolist()
    stuff = [
        Segment(ANNOTATED + 1 + k, label, False, area)
        for k, (label, area) in enumerate(zip(STUFF, areas, strict=True))
        if area
    ]
    target = replace(target, panoptic=PanopticMap(ids, (*target.panoptic.segments, *stuff)))
    image = (128 + 60 * smooth(rng, 3, (9, 12), size)).clamp(0, 255).to(torch.uint8)
    return Sample(image, seed, f"generated {seed}", size, target)


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Automatic mixed precision, switched off for fp32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def median_ms(function: Callable[[], object], scale: Scale) -> float:
    """Median milliseconds of ``function``, with the work that it left to the GPU."""
    times = [timed(function)[1] for _ in range(scale.warm_up + scale.repeats)][scale.warm_up :]
    return statistics.median(times) / 1e6
