"""Jobs on masks and label maps of one image: pasting, pair statistics, fusion, the label map, and all of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from pycocotools import mask as rle
from torch import Tensor
from torchvision.models.detection.roi_heads import paste_masks_in_image

from panoptic_occ.fusion.engine import fuse
from panoptic_occ.fusion.policy import FusionPolicy
from panoptic_occ.structures.instances import InstanceSet
from panoptic_occ.structures.masks import MaskCrops, PairStats
from panoptic_occ.structures.panoptic_map import PanopticMap
from panoptic_occ.structures.relation import Relation
from panoptic_occ.stuff.base import stuff_labels
from panoptic_occ.stuff.label_map import most_likely
from panoptic_occ.thing.paste import paste_masks
from scripts.benchmark import reference
from scripts.benchmark.checks import alike_masks, equal, same_labels, same_map, same_masks, tied
from scripts.benchmark.inputs import COCO_LIKE, LARGE, NUM_THINGS, Size, detections, semantic_logits
from scripts.benchmark.measure import Contest, Job, StandIn

CROWDED = 100
COUNTS: tuple[tuple[Size, int], ...] = ((LARGE, CROWDED), (COCO_LIKE, CROWDED), (COCO_LIKE, 40), (COCO_LIKE, 15))
CONF_THR, SIG_RATIO, MAX_OCCLUDED, MIN_VISIBLE, STUFF_AREA = 0.5, 0.2, 0.5, 0.5, 4096
RAP_MIN_VISIBLE, SAME_CLASS_THR, DUPLICATE_THR = 0.6, 0.6, 0.5
NETWORK: Size = (800, 1066)
FIRST_LABEL = NUM_THINGS - 1
"""Channel c of the logits is the contiguous label c + FIRST_LABEL; channel 0 stands for all things."""


def jobs() -> list[Job]:
    """Every job with 100 detections at 800x1333 has a target; other sizes show that it holds there, too."""
    found = [
        Job(name, about, f"{_text(size)}, N = {n}", partial(prepare, size, n, (size, n) == COUNTS[0]))
        for name, about, prepare in (
            ("paste", "paste 28x28 masks", pasting),
            ("pairs", "pair statistics", pair_statistics),
            ("heuristic", "fusion by confidence", heuristic),
            ("ocfusion", "OCFusion, Algorithm 1", ocfusion),
            ("rap", "RAP, Algorithm 1", rap),
        )
        for size, n in COUNTS
    ]
    labels = "semantic label map, 54 classes"
    found += [
        Job("label_map", labels, _text(size), partial(label_map, size, size == LARGE)) for size in (LARGE, COCO_LIKE)
    ]
    whole = "whole post-processing"
    found += [
        Job("post", whole, f"{_text(NETWORK)} to {_text(size)}", partial(post_processing, size, size == NETWORK))
        for size in (NETWORK, COCO_LIKE)
    ]
    return found


def _text(size: Size) -> str:
    return f"{size[0]}x{size[1]}"


def pasting(size: Size, n: int, required: bool) -> Contest:
    """Masks as crops; torchvision gives the probabilities of every pixel, before any threshold."""
    found = detections(n, size)
    return Contest(
        lambda: paste_masks(found.soft, found.boxes, size),
        [
            StandIn(
                "torchvision paste_masks_in_image",
                lambda: paste_masks_in_image(found.soft[:, None], found.boxes, size),
                alike_masks,
                40.0 if required else None,
            ),
            StandIn(
                "grid_sample per box, dense maps",
                lambda: reference.paste(found.soft, found.boxes, size),
                lambda ours, theirs: same_masks(ours, theirs, found),
            ),
        ],
    )


def pair_statistics(size: Size, n: int, required: bool) -> Contest:
    """Areas and intersections; dense masks and run lengths are ready before, as are the crops."""
    masks = detections(n, size).instances().masks
    dense = masks.dense()
    encoded = rle.encode(np.asfortranarray(dense.permute(1, 2, 0).numpy().view(np.uint8)))
    area = torch.from_numpy(rle.area(encoded).astype(np.float64))

    def by_run_lengths() -> Float[Tensor, "n n"]:
        # with "crowds", what it calls IoU is the intersection over the area of the first
        ratios = torch.from_numpy(rle.iou(encoded, encoded, [1] * n))
        return (ratios * area[:, None]).round()

    check: Callable[[PairStats, Tensor], None] = lambda ours, theirs: equal(ours.inter, theirs.long(), "pairs")  # noqa: E731
    return Contest(
        lambda: PairStats.of(fresh(masks)),
        [
            StandIn("dense float matmul", lambda: reference.pair_counts(dense), check, 30.0 if required else None),
            StandIn("pycocotools, run lengths ready", by_run_lengths, check),
        ],
    )


def fresh(masks: MaskCrops) -> MaskCrops:
    """The same masks without anything that was kept of them."""
    return MaskCrops(masks.pixels, masks.windows, masks.size)


class Scene:
    """Detections of one image as crops and as dense masks, its label map, and an order among them."""

    def __init__(self, size: Size, n: int) -> None:
        self.instances = detections(n, size).instances()
        self.dense = self.instances.masks.dense()
        self.confident = int((self.instances.scores >= CONF_THR).sum())
        logits = semantic_logits(size)
        self.semantic = stuff_labels(reference.label_map(logits, size, size), FIRST_LABEL, NUM_THINGS)
        rng = np.random.default_rng(n)
        self.values = torch.from_numpy(rng.normal(size=n)).float()
        self.above = torch.from_numpy(rng.random((n, n)) < 0.5)

    def own(self) -> InstanceSet:
        """The confident instances with nothing computed yet."""
        return replace(self.instances, masks=fresh(self.instances.masks)).ranked(CONF_THR)

    def among(self, pairs: Tensor) -> Tensor:
        """A matrix of pairs for the confident ones."""
        return pairs[: self.confident, : self.confident]

    @property
    def offered(self) -> tuple[Bool[Tensor, "m h w"], Int[Tensor, " m"]]:
        """Dense masks and labels of the confident ones."""
        return self.dense[: self.confident], self.instances.labels[: self.confident]


def heuristic(size: Size, n: int, required: bool) -> Contest:
    """From crops and label map to the finished map, what the suite needs of the pairs included."""
    scene, policy = Scene(size, n), FusionPolicy(CONF_THR, max_occluded=MAX_OCCLUDED, stuff_area=STUFF_AREA)
    nobody = scene.among(torch.zeros((n, n)))

    def ours() -> PanopticMap:
        instances = scene.own()
        stats = PairStats.of(instances.masks)
        return fuse(instances, stats, Relation(nobody, nobody.bool()), scene.semantic, policy)

    def literal() -> reference.DenseMap:
        return reference.fuse_by_confidence(*scene.offered, scene.semantic, MAX_OCCLUDED, STUFF_AREA)

    return Contest(ours, [StandIn("literal, dense masks", literal, same_map, 40.0 if required else None)])


def ocfusion(size: Size, n: int, required: bool) -> Contest:
    """The answers of the head are given."""
    scene, policy = Scene(size, n), FusionPolicy(CONF_THR, min_visible=MIN_VISIBLE, stuff_area=STUFF_AREA)
    margin = scene.among(scene.above.float())

    def ours() -> PanopticMap:
        instances = scene.own()
        stats = PairStats.of(instances.masks)
        relation = Relation(margin, stats.significant(SIG_RATIO), antisymmetric=False)
        return fuse(instances, stats, relation, scene.semantic, policy)

    def literal() -> reference.DenseMap:
        return reference.fuse_by_occlusion(
            *scene.offered, scene.above, scene.semantic, SIG_RATIO, MIN_VISIBLE, STUFF_AREA
        )

    return Contest(ours, [StandIn("literal, dense masks", literal, same_map, 25.0 if required else None)])


def rap(size: Size, n: int, required: bool) -> Contest:
    """The relation values are given."""
    scene = Scene(size, n)
    policy = FusionPolicy(
        CONF_THR, None, RAP_MIN_VISIBLE, SAME_CLASS_THR, duplicate_thr=DUPLICATE_THR, stuff_area=STUFF_AREA
    )
    margin = scene.among(scene.values[None, :] - scene.values[:, None])

    def ours() -> PanopticMap:
        instances = scene.own()
        stats = PairStats.of(instances.masks)
        return fuse(instances, stats, Relation(margin, stats.significant(0.0)), scene.semantic, policy)

    def literal() -> reference.DenseMap:
        masks, labels = scene.offered
        thresholds = SAME_CLASS_THR, DUPLICATE_THR, RAP_MIN_VISIBLE
        return reference.fuse_by_value(masks, labels, scene.values, scene.semantic, *thresholds, STUFF_AREA)

    return Contest(ours, [StandIn("literal, dense masks", literal, same_map, 25.0 if required else None)])


def label_map(size: Size, required: bool) -> Contest:
    """From logits at stride 4 to the best channel of every pixel."""
    logits = semantic_logits(size)
    return Contest(
        lambda: most_likely(logits, size, size),
        [
            StandIn(
                "F.interpolate + argmax",
                lambda: reference.label_map(logits, size, size),
                lambda ours, theirs: same_labels(ours, theirs, logits, size, size),
                10.0 if required else None,
            )
        ],
    )


def post_processing(size: Size, required: bool) -> Contest:
    """From what the network gives (logits, 100 boxes, soft masks) to the map by confidence, at ``size``."""
    logits, found = semantic_logits(NETWORK), detections(CROWDED, size)
    policy = FusionPolicy(CONF_THR, max_occluded=MAX_OCCLUDED, stuff_area=STUFF_AREA)

    def ours() -> PanopticMap:
        instances = found.above(CONF_THR).instances()
        nobody = torch.zeros((len(instances), len(instances)))
        semantic = stuff_labels(most_likely(logits, NETWORK, size), FIRST_LABEL, NUM_THINGS)
        return fuse(instances, PairStats.of(instances.masks), Relation(nobody, nobody.bool()), semantic, policy)

    def literal() -> reference.DenseMap:
        semantic = stuff_labels(reference.label_map(logits, NETWORK, size), FIRST_LABEL, NUM_THINGS)
        masks = reference.paste(found.soft, found.boxes, size)
        n = len(found.above(CONF_THR))
        return reference.fuse_by_confidence(masks[:n], found.labels[:n], semantic, MAX_OCCLUDED, STUFF_AREA)

    undecided = tied(logits, NETWORK, size)
    name, target = "x4, resize, argmax, paste 100, combine", 20.0 if required else None
    return Contest(ours, [StandIn(name, literal, lambda a, b: same_map(a, b, undecided), target)])
