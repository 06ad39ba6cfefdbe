"""What the fusion refuses: inputs that contradict each other, or that are not what they look like."""

from __future__ import annotations

import logging
from functools import cache

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from panoptic_occ.fusion.stuff import StuffSource
from panoptic_occ.structures.categories import Categories
from panoptic_occ.structures.instances import InstanceSet
from panoptic_occ.structures.masks import PairStats
from panoptic_occ.structures.relation import Relation

log = logging.getLogger(__name__)

IGNORED = (255, 65535)
"""Labels of what belongs to no category in many data sets and networks; ``VOID_LABEL`` says that here."""


def check_inputs(
    instances: InstanceSet,
    stats: PairStats,
    relation: Relation,
    semantic: StuffSource | None,
    categories: Categories | None,
) -> None:
    """ValueError when the inputs contradict each other, or hold scores or labels that cannot be ones."""
    _check_relation(instances, stats, relation)
    _check_scores(instances.scores.tolist())
    _check_thing_labels(instances.labels, categories)
    if semantic is not None and not callable(semantic):
        check_stuff_map(semantic, instances.masks.size)
    if relation.stuff is not None:
        check_stuff_map(relation.stuff, instances.masks.size)


def _check_relation(instances: InstanceSet, stats: PairStats, relation: Relation) -> None:
    n, duplicate_of, order = len(instances), relation.duplicate_of, relation.order
    same = f"stats and relation must be those of the same {n} instances, PairStats.of(instances.masks) and the order's"
    for name, tensor in (("stats.inter", stats.inter), ("margin", relation.margin), ("valid", relation.valid)):
        if tensor.shape != (n, n):
            raise ValueError(f"fuse: {name} has shape {tuple(tensor.shape)}, {n} instances need ({n}, {n}); {same}")
    for name, of_each in (("stats.area", stats.area), ("relation.duplicate_of", duplicate_of)):
        if of_each is not None and of_each.shape != (n,):
            raise ValueError(f"fuse: {name} has shape {tuple(of_each.shape)}, needs ({n},); {same}")
    if order is not None and sorted(order.tolist()) != list(range(n)):
        raise ValueError(f"fuse: relation.order must name each of the {n} instances once: {order.tolist()}")
    claims, masks = relation.claims, instances.masks
    if claims is not None and (len(claims), tuple(claims.size)) != (n, tuple(masks.size)):
        raise ValueError(
            f"fuse: relation.claims has {len(claims)} masks of an image of {claims.size}, needs {n} of {masks.size}"
        )


def _check_scores(scores: list[float]) -> None:
    for i, score in enumerate(scores):
        if not 0 <= score <= 1:  # also NaN
            raise ValueError(
                f"fuse: instance {i} has the score {score:g}; a probability in [0, 1] is meant: divide per cent by "
                "100, take the sigmoid or softmax of logits, leave out instances without a score"
            )


def _check_thing_labels(labels: Int[Tensor, " n"], categories: Categories | None) -> None:
    if len(labels) and labels.is_floating_point():
        raise ValueError(
            f"fuse: the labels of the instances are {labels.dtype}; whole numbers are meant: labels.long()"
        )
    stop = float("inf") if categories is None else categories.num_things
    for i, label in enumerate(labels.tolist()):
        if not 0 <= label < stop:
            allowed = "0, 1, ..." if categories is None else f"0 .. {stop - 1}"
            raise ValueError(
                f"fuse: instance {i} has the label {label}; contiguous thing labels {allowed} are meant: "
                "Categories.label_of translates the ids of a data set, background and ignored instances are left out"
            )
        if categories is None and label in IGNORED:
            raise ValueError(
                f"fuse: instance {i} has the label {label}, the ignore label of many tools; leave such instances out; "
                "where it is a category, give categories="
            )


def check_stuff_map(semantic: object, size: tuple[int, int]) -> None:
    """ValueError unless ``semantic`` is a map of labels of an image of ``size``."""
    if not isinstance(semantic, Tensor):
        fix = "torch.from_numpy(it)" if isinstance(semantic, np.ndarray) else "of a SemanticMap its labels"
        raise ValueError(f"fuse: the stuff is a {type(semantic).__name__}; a tensor of labels (H, W) is meant: {fix}")
    if tuple(semantic.shape) != tuple(size):
        fix = "of scores of every class take argmax(dim=0)" if semantic.ndim == 3 else "resize the labels by 'nearest'"
        raise ValueError(
            f"fuse: the semantic map is {tuple(semantic.shape)} px, the masks are of an image of {tuple(size)}; labels "
            f"of the same pixels are meant: {fix}"
        )
    if semantic.is_floating_point() or semantic.dtype == torch.bool:
        raise ValueError(f"fuse: the semantic map is {semantic.dtype}; labels are whole numbers: semantic.long()")


def check_stuff_labels(labels: Int[np.ndarray, " k"], thing_labels: list[int], categories: Categories | None) -> None:
    """ValueError for one of ``labels`` (signed) that is a thing's, the ignore label or none of ``categories``.

    Without ``categories`` a label up to the largest of the instances is known to be a thing's.
    """
    if not labels.size:
        return
    first = max(thing_labels, default=-1) + 1 if categories is None else categories.num_things
    stop = None if categories is None else len(categories)
    lowest = int(labels.view(f"u{labels.itemsize}").min())  # read so, -1 is larger than any label
    highest = int(labels.max())
    if lowest < first:
        raise ValueError(
            f"fuse: the stuff map holds {lowest}, a label of things (0 .. {first - 1}); stuff labels come after those, "
            f"and -1 where there is no stuff: semantic.long().masked_fill(semantic < {first}, -1)"
        )
    for ignored in IGNORED:
        if highest >= ignored and (stop is None or stop <= ignored) and (labels == ignored).any():
            raise ValueError(
                f"fuse: the stuff map holds {ignored}, the ignore label of many data sets; -1 says here that there is "
                f"no stuff: semantic.long().masked_fill(semantic == {ignored}, -1); where it is a category, give "
                "categories="
            )
    if stop is not None and highest >= stop:
        raise ValueError(
            f"fuse: the stuff map holds {highest}; the {stop} categories have the contiguous labels 0 .. {stop - 1}: "
            "Categories.label_of translates the ids of a data set"
        )


@cache
def say_that_stuff_is_lost(stuff_area: float) -> None:
    """One warning a process that ``stuff_area`` pixels are much of a small image."""
    log.warning(
        "fusion.stuff_area=%d pixels is more than a quarter of an image, so that little or no stuff stays in it; give "
        "less, or a share of the image below 1: 0.0133 is 4096 pixels of 640x480",
        stuff_area,
    )
