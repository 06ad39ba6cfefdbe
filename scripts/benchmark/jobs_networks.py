"""Jobs with networks: the pair head, a whole inference, the relation step's share of it, and a step of each stage."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from tempfile import TemporaryDirectory
from typing import Any

import torch
from jaxtyping import Float
from panoptic_occ.training.recipe import build_schedule
from torch import Tensor
from torchvision.models.detection._utils import Matcher
from torchvision.ops import box_iou

from panoptic_occ.config.compose import compose
from panoptic_occ.fusion.engine import fuse
from panoptic_occ.fusion.policy import FusionPolicy
from panoptic_occ.network.panoptic_fpn import PanopticFPN
from panoptic_occ.occlusion.heads.roi_head import PairHead
from panoptic_occ.occlusion.ocfusion import OCFusion
from panoptic_occ.runs.build import build_data
from panoptic_occ.runs.plan import build_model
from panoptic_occ.structures.base_output import BaseOutput
from panoptic_occ.structures.instances import InstanceSet
from panoptic_occ.structures.masks import PairStats
from panoptic_occ.structures.panoptic_map import PanopticMap
from panoptic_occ.structures.relation import Relation
from panoptic_occ.structures.sample import Sample
from panoptic_occ.thing.mask_rcnn import MaskRCNN
from scripts.benchmark import reference
from scripts.benchmark.checks import close, equal, expect, same_map
from scripts.benchmark.inputs import detections, pair_inputs
from scripts.benchmark.measure import Contest, Job, StandIn
from scripts.benchmark.networks import CONF_THR, SIZE, networks

NO_SLOWER = 0.95
"""Where nothing can be shared, ours and the plain head do the same; 5 % are noise."""
POLICY = FusionPolicy(CONF_THR, min_visible=0.5)
SIG_RATIO = 0.2
TIMED_HEAD = (64, 12)
PARTNER_IOU, PARTNERS = 0.9, 0.8
TRAINING_IMAGES = 8
COCO_WORDS = ("backbone=resnet50_fpn", "backbone.weights=null", "thing=mask_rcnn", "stuff=pfpn", "schedule=coco_1x")
COCO_SIDE, COCO_PAIRS = 928, 128
"""A square that nothing pads with the pixels of 800x1066, in which most images of COCO train; and the most pairs of an
image that OCFusion trains on."""
PROPOSAL_IOU = 0.2
"""A trained network proposes every thing many times, and 128 of them train.  Boxes of random weights are as many from
this overlap on."""


def jobs() -> list[Job]:
    """The networks come last: they take longest."""
    heads = ((64, 12, False), (1, 2, False), (16, 6, False), (64, 64, True))
    size, text = f"{SIZE[0]}x{SIZE[1]}", "inference, ResNet-50, stuff, order and fusion included"
    found = [
        Job(
            "pair_head",
            "OCFusion pair head",
            f"{pairs} pair{'s' * (pairs > 1)} of {n}",
            partial(pair_head, n, pairs, ring),
            turns=2 if (pairs, n) == TIMED_HEAD else 1,
        )
        for pairs, n, ring in heads
    ]
    return [
        *found,
        *(
            Job("stages", "a step of stage 2", f"8 scenes, {name}", partial(training_steps, name, TRAINING_IMAGES))
            for name in ("ocfusion", "refine", "rap", "oanet")
        ),
        Job(
            "coco_stages",
            "a step of stage 2, ResNet-50",
            f"2 images of {COCO_SIDE}x{COCO_SIDE}, ocfusion, {COCO_PAIRS} pairs in one",
            coco_steps,
            turns=1,
        ),
        Job("relation", "OCFusion's relation step", f"{size}, N = 20", relation_step, turns=1),
        Job("inference", text, size, inference, turns=1),
    ]


def pair_head(n: int, pairs: int, ring: bool) -> Contest:
    """The head of the paper (512 channels, 257 inputs an instance); only all pairs of 12 have to be faster."""
    torch.manual_seed(0)
    head = PairHead(257, 512, 1024).eval()
    x, chosen = pair_inputs(n, pairs, ring)
    target = 1.2 if (pairs, n) == TIMED_HEAD else NO_SLOWER
    plain = torch.no_grad()(partial(reference.pair_logits, head, x, chosen))
    check: Callable[[Tensor, Tensor], None] = lambda a, b: close(a, b, "logits")  # noqa: E731
    return Contest(torch.no_grad()(partial(head, x, chosen)), [StandIn("plain head", plain, check, target)])


def inference() -> Contest:
    """Image in, panoptic map out; torchvision's ends with boxes and masks.

    As released it makes masks for everything that scores 0.05 or more (at most 100); ours needs those of 0.5 or more.
    With ``box_score_thresh=0.5`` it makes the same ones as ours.
    """
    ours, theirs, sample = networks()
    pixels = sample.image / 255

    @torch.no_grad()
    def panoptic() -> tuple[BaseOutput, PanopticMap]:
        (output,) = ours.base_outputs([sample], CONF_THR, ours.occlusion.requires)
        relation = ours.occlusion(output.instances, output.stats)
        return output, fuse(output.instances, output.stats, relation, output.semantic.labels, POLICY)

    @torch.no_grad()
    def detect(score_thr: float) -> dict[str, Tensor]:
        theirs.roi_heads.score_thresh = score_thr
        found: dict[str, Tensor] = theirs([pixels])[0]
        return found

    def check(result: tuple[BaseOutput, PanopticMap], found: dict[str, Tensor]) -> None:
        same_detections(result[0].instances, found)
        literally_fused(ours, *result)

    name = "torchvision maskrcnn_resnet50_fpn"
    return Contest(
        panoptic,
        [
            StandIn(f"{name}, up to 100 masks", partial(detect, 0.05), check, 1.0),
            StandIn(f"{name}, same masks as ours", partial(detect, CONF_THR), check, 1.0),
        ],
    )


def same_detections(ours: InstanceSet, theirs: dict[str, Tensor]) -> None:
    """Nearly all confident boxes of either have a partner of the same class; where two nearly tie, the suppression of
    one by the other follows the last bit."""
    chosen = theirs["scores"] >= CONF_THR
    overlap = box_iou(ours.boxes, theirs["boxes"][chosen])
    partner = (overlap >= PARTNER_IOU) & (ours.labels[:, None] + 1 == theirs["labels"][chosen][None, :])
    for side, matched in (("ours", partner.any(dim=1)), ("torchvision's", partner.any(dim=0))):
        count, total = int(matched.sum()), len(matched)
        expect(total > 0 and count / total >= PARTNERS, f"{count} of {total} detections of {side} have a partner")


@torch.no_grad()
def literally_fused(model: PanopticFPN, output: BaseOutput, result: PanopticMap) -> None:
    """The map is what the plain head and Algorithm 1 make of the same detections."""
    instances, dense = output.instances, output.instances.masks.dense()
    equal(output.stats.inter, reference.pair_counts(dense).long(), "pairs")
    above = _plain_relation(model, instances, output.stats).above()
    wanted = reference.fuse_by_occlusion(
        dense, instances.labels, above, output.semantic.labels, SIG_RATIO, 0.5, POLICY.stuff_area
    )
    same_map(result, wanted)


def _plain_relation(model: PanopticFPN, instances: InstanceSet, stats: PairStats) -> Relation:
    occlusion = model.occlusion
    assert isinstance(occlusion, OCFusion)
    assert instances.soft is not None and instances.roi_features is not None
    masks = torch.nn.functional.max_pool2d(instances.soft[:, None], 2)
    pairs = torch.ones(stats.inter.shape, dtype=torch.bool).tril(-1) & stats.significant(SIG_RATIO)
    logits = torch.zeros(stats.inter.shape)
    if pairs.any():
        joined = torch.cat([masks, instances.roi_features], dim=1)
        logits[pairs] = reference.pair_logits(occlusion.head, joined, pairs.nonzero())
    return Relation(logits, pairs, antisymmetric=False)


def relation_step() -> Contest:
    """On 20 detections, beside the whole network.

    OCFusion counts 132,165 significant pairs in COCO's 118,000 training images of about 7 things; by the square of the
    number that is 9 for 20 things, and these 20 boxes are drawn to have as many.
    """
    model, _, sample = networks()
    found = detections(20, SIZE, seed=9, scale=0.5).instances()
    torch.manual_seed(0)
    instances = replace(found, roi_features=torch.randn(len(found), 256, 14, 14))
    stats = PairStats.of(instances.masks)
    occlusion = torch.no_grad()(partial(model.occlusion, instances, stats))
    network = torch.no_grad()(partial(model.base_outputs, [sample], CONF_THR, model.occlusion.requires))

    @torch.no_grad()
    def check(ours: Relation, theirs: Sequence[BaseOutput]) -> None:
        plain = _plain_relation(model, instances, stats)
        equal(ours.valid, plain.valid, "pairs that are asked")
        close(ours.margin[plain.valid], plain.margin[plain.valid], "margins")

    pairs = int(stats.significant(SIG_RATIO).sum()) // 2
    return Contest(occlusion, [StandIn(f"the whole network (the step: {pairs} pairs)", network, check, 10.0)])


def training_steps(occlusion: str, images: int) -> Contest:
    """Losses, gradients and the optimiser's step on the first scenes, with the base of ``make train``."""
    return _steps([f"occlusion={occlusion}"], images)


def coco_steps() -> Contest:
    """The same with the network that trains on COCO, and two scenes painted as large: one has all pairs that can train,
    the other has none, as 69,568 of COCO's 118,287 training images (RAP's script finds a significant annotated pair in
    48,719).  REFINE's head takes as long as OCFusion's.
    """
    transform = (f"data.train_transform.short_edge=[{COCO_SIDE}]", f"data.train_transform.max_edge={COCO_SIDE}")
    return _steps([*COCO_WORDS, f"data.source.size={COCO_SIDE}", *transform], 2, coco=True)


def _steps(words: Sequence[str], images: int, coco: bool = False) -> Contest:
    """Nothing is compared but that stage 2 leaves the base alone, and with ``coco`` trains on the pairs promised."""
    folder = TemporaryDirectory(prefix="panoptic_occ_bench_")
    source = [f"data.source.{key}" for key in (f"train_images={images}", "val_images=1", f"cache_dir={folder.name}")]
    cfg = compose([*source, "processes=1", *words])
    data, schedule = build_data(cfg), build_schedule(cfg)
    samples = [data.train_transform(data.train_data.load(k), 0) for k in range(images)]
    base, head = (build_model(cfg, data.categories) for _ in range(2))
    pairs: list[int] = []
    if coco:
        samples[:-1] = map(without_pairs, samples[:-1])
        for branch in (base.thing, head.thing):
            assert isinstance(branch, MaskRCNN)
            branch.roi_heads.proposal_matcher = Matcher(PROPOSAL_IOU, PROPOSAL_IOU, allow_low_quality_matches=False)
        head.occlusion.get_submodule("head").register_forward_pre_hook(lambda _, inputs: pairs.append(len(inputs[1])))
    base.train().occlusion.requires_grad_(False)
    for part in head.base_modules().values():
        part.eval().requires_grad_(False)
    head.occlusion.train()
    frozen = _sum(head.base_modules()["backbone"].parameters())
    optimizers = [
        schedule.stage(stage, images).optimize([p for p in model.parameters() if p.requires_grad])[0]
        for stage, model in (("base", base), ("occlusion", head))
    ]
    for optimizer in optimizers:  # the first step makes its buffers
        _step(optimizer, {"nothing": torch.stack([p.sum() for p in optimizer.param_groups[0]["params"]]).sum() * 0})

    def first() -> None:
        _step(optimizers[0], base.base_losses(samples))

    def second() -> None:
        _step(optimizers[1], head.occlusion_losses(samples, torch.Generator().manual_seed(0)))

    def check(ours: Any, theirs: Any) -> None:
        equal(_sum(head.base_modules()["backbone"].parameters()), frozen, "weights of the frozen base")
        expect(not coco or set(pairs) == {2 * COCO_PAIRS}, f"training pairs in both directions: {pairs}")

    return Contest(second, [StandIn("a step of stage 1", first, check, 2.0)], close=folder.cleanup)


def without_pairs(sample: Sample) -> Sample:
    """The sample with annotations that hide nothing of each other, as far as stage 2 knows."""
    target = sample.annotations
    relation = replace(target.relation, inter=target.relation.area.diag())
    return replace(sample, target=replace(target, relation=relation))


def _step(optimizer: torch.optim.Optimizer, losses: dict[str, Tensor]) -> None:
    optimizer.zero_grad(set_to_none=True)
    torch.stack(list(losses.values())).sum().backward()
    optimizer.step()


def _sum(parameters: Any) -> Float[Tensor, ""]:
    return torch.stack([p.detach().double().sum() for p in parameters]).sum()
