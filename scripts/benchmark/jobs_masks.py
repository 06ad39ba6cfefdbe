"""Jobs on masks and label maps of one image: pasting, pair statistics, fusion, the label map, and all of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from pycocotools import mask as rle
from torch import Tensor
from torchvision.models.detection.roi_heads import paste_masks_in_image

from panoptic_occ.fusion.engine import FusionPolicy, fuse
from panoptic_occ.structures.masks import PairStats
from panoptic_occ.structures.panoptic_map import PanopticMap
from panoptic_occ.structures.relation import Relation
from panoptic_occ.stuff.base import stuff_labels
from panoptic_occ.stuff.label_map import most_likely
from panoptic_occ.thing.paste import paste_masks
from scripts.benchmark import reference
from scripts.benchmark.checks import alike_masks, equal, same_labels, same_map, same_masks, tied
from scripts.benchmark.inputs import COCO_LIKE, LARGE, NUM_THINGS, Size, detections, fresh, semantic_logits
from scripts.benchmark.measure import Contest, Job, StandIn

CONF_THR, STUFF_AREA = 0.5, 4096
NETWORK: Size = (800, 1066)
SIZES = {
    "800x1333, N = 100": (LARGE, 100),
    "480x640, N = 100": (COCO_LIKE, 100),
    "480x640, N = 40": (COCO_LIKE, 40),
    "480x640, N = 15": (COCO_LIKE, 15),
}
FIRST_LABEL = NUM_THINGS - 1  # the contiguous label of channel 0 of the logits, which stands for all things


def jobs() -> list[Job]:
    """The first size of each has a target; the others show that it holds there, too."""
    maps = {"800x1333": (LARGE,), "480x640": (COCO_LIKE,)}
    results = {"800x1066 to 800x1066": (NETWORK,), "800x1066 to 480x640": (COCO_LIKE,)}
    table: tuple[tuple[str, str, Callable[..., Contest], float, Mapping[str, tuple[Any, ...]]], ...] = (
        ("paste", "paste 28x28 masks", pasting, 40.0, SIZES),
        ("pairs", "pair statistics", pair_statistics, 30.0, SIZES),
        ("heuristic", "fusion by confidence", partial(fusion, HEURISTIC), 40.0, SIZES),
        ("ocfusion", "OCFusion, Algorithm 1", partial(fusion, OCFUSION), 25.0, SIZES),
        ("rap", "RAP, Algorithm 1", partial(fusion, RAP), 25.0, SIZES),
        ("label_map", "semantic label map, 54 classes", label_map, 10.0, maps),
        ("post", "whole post-processing", post_processing, 20.0, results),
    )
    return [
        Job(name, about, text, partial(prepare, *size, None if k else target))
        for name, about, prepare, target, sizes in table
        for k, (text, size) in enumerate(sizes.items())
    ]


def pasting(size: Size, n: int, target: float | None) -> Contest:
    """Masks as crops; torchvision gives the probabilities of every pixel, before any threshold."""
    things = detections(n, size)
    torchvision = partial(paste_masks_in_image, things.soft[:, None], things.boxes, size)
    dense = partial(reference.paste, things.soft, things.boxes, size)
    stand_ins = [
        StandIn("torchvision paste_masks_in_image", torchvision, alike_masks, target),
        StandIn("grid_sample per box, dense maps", dense, lambda ours, theirs: same_masks(ours, theirs, things)),
    ]
    return Contest(partial(paste_masks, things.soft, things.boxes, size), stand_ins)


def pair_statistics(size: Size, n: int, target: float | None) -> Contest:
    """Areas and intersections; dense masks and run lengths are ready before, as are the crops."""
    masks = detections(n, size).instances().masks
    dense = masks.dense()
    encoded = rle.encode(np.asfortranarray(dense.permute(1, 2, 0).numpy().view(np.uint8)))
    area = torch.from_numpy(rle.area(encoded).astype(np.float64))

    def by_run_lengths() -> Float[Tensor, "n n"]:
        # with "crowds", what it calls IoU is the intersection over the area of the first
        ratios = torch.from_numpy(rle.iou(encoded, encoded, [1] * n))
        return (ratios * area[:, None]).round()

    def check(ours: PairStats, theirs: Tensor) -> None:
        equal(ours.inter, theirs.long(), "pairs")

    by_product = StandIn("dense float matmul", partial(reference.pair_counts, dense), check, target)
    pycocotools = StandIn("pycocotools, run lengths ready", by_run_lengths, check)
    return Contest(lambda: PairStats.of(fresh(masks)), [by_product, pycocotools])


@dataclass(frozen=True)
class Algorithm:
    """A fusion, ours and literally, on dense masks, labels, above, values and the label map.  ``sig_ratio``: of the
    pairs that count.  ``margin``: of random ``above`` (N, N) and ``values`` (N,)."""

    policy: FusionPolicy
    sig_ratio: float
    margin: Callable[[Tensor, Tensor], Tensor]
    literal: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], reference.DenseMap]
    antisymmetric: bool = True


HEURISTIC = Algorithm(
    FusionPolicy(CONF_THR, max_occluded=0.5, stuff_area=STUFF_AREA),
    math.inf,
    lambda above, values: torch.zeros_like(above),
    lambda masks, labels, above, values, stuff: reference.fuse_by_confidence(masks, labels, stuff, 0.5, STUFF_AREA),
)
OCFUSION = Algorithm(
    FusionPolicy(CONF_THR, min_visible=0.5, stuff_area=STUFF_AREA),
    0.2,
    lambda above, values: above,
    lambda masks, labels, above, values, stuff: reference.fuse_by_occlusion(
        masks, labels, above > 0, stuff, 0.2, 0.5, STUFF_AREA
    ),
    antisymmetric=False,
)
RAP = Algorithm(
    FusionPolicy(CONF_THR, None, min_visible=0.6, same_class_thr=0.6, duplicate_thr=0.5, stuff_area=STUFF_AREA),
    0.0,
    lambda above, values: values[None, :] - values[:, None],
    lambda masks, labels, above, values, stuff: reference.fuse_by_value(
        masks, labels, values, stuff, 0.6, 0.5, 0.6, STUFF_AREA
    ),
)


def fusion(algorithm: Algorithm, size: Size, n: int, target: float | None) -> Contest:
    """From crops and label map to the finished map, pair statistics included; what a head would say is given."""
    instances = detections(n, size).instances()
    semantic = stuff_labels(reference.label_map(semantic_logits(size), size, size), FIRST_LABEL, NUM_THINGS)
    confident = int((instances.scores >= CONF_THR).sum())
    rng = np.random.default_rng(n)
    values = torch.from_numpy(rng.normal(size=n)).float()[:confident]
    above = torch.from_numpy(rng.random((n, n)) < 0.5).float()[:confident, :confident]
    dense, labels = instances.masks.dense()[:confident], instances.labels[:confident]
    margin = algorithm.margin(above, values)

    def ours() -> PanopticMap:
        ranked = replace(instances, masks=fresh(instances.masks)).ranked(CONF_THR)
        stats = PairStats.of(ranked.masks)
        relation = Relation(margin, stats.significant(algorithm.sig_ratio), antisymmetric=algorithm.antisymmetric)
        return fuse(ranked, stats, relation, semantic, algorithm.policy)

    literal = partial(algorithm.literal, dense, labels, above, values, semantic)
    return Contest(ours, [StandIn("literal, dense masks", literal, same_map, target)])


def label_map(size: Size, target: float | None) -> Contest:
    """From logits at stride 4 to the best channel of every pixel."""
    cut = semantic_logits(size), size, size
    plain = partial(reference.label_map, *cut)
    stand_in = StandIn("F.interpolate + argmax", plain, lambda ours, theirs: same_labels(ours, theirs, *cut), target)
    return Contest(partial(most_likely, *cut), [stand_in])


def post_processing(size: Size, target: float | None) -> Contest:
    """From what the network gives (logits, 100 boxes, soft masks) to the map by confidence, at ``size``."""
    logits, things = semantic_logits(NETWORK), detections(100, size)

    def ours() -> PanopticMap:
        instances = things.above(CONF_THR).instances()
        nobody = torch.zeros((len(instances), len(instances)))
        semantic = stuff_labels(most_likely(logits, NETWORK, size), FIRST_LABEL, NUM_THINGS)
        relation = Relation(nobody, nobody.bool())
        return fuse(instances, PairStats.of(instances.masks), relation, semantic, HEURISTIC.policy)

    def literal() -> reference.DenseMap:
        semantic = stuff_labels(reference.label_map(logits, NETWORK, size), FIRST_LABEL, NUM_THINGS)
        masks, n = reference.paste(things.soft, things.boxes, size), len(things.above(CONF_THR))
        return reference.fuse_by_confidence(masks[:n], things.labels[:n], semantic, 0.5, STUFF_AREA)

    check = partial(same_map, undecided=tied(logits, NETWORK, size))
    return Contest(ours, [StandIn("x4, resize, argmax, paste 100, combine", literal, check, target)])
