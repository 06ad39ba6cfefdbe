"""What the ground-truth relations of a split look like: how many pairs there are, and how far simple rules tell their
order, which a learned method has to beat."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from rich.table import Column, Table
from torch import Tensor

from panoptic_occ.data.coco.dataset import CocoPanoptic
from panoptic_occ.data.relations.cache import RelationCache
from panoptic_occ.structures.relation import GroundTruthRelation
from panoptic_occ.structures.sample import Sample

OCFUSION_COCO_TRAIN_PAIRS: Mapping[float, int] = {0.05: 192_519, 0.10: 157_784, 0.20: 132_165}
"""Pairs of COCO train2017 over the significance ratio (rho), as published by OCFusion (Lazarow et al., CVPR 2020)."""

SIG_RATIO = 0.2

Pairs = tuple[Int[Tensor, " p"], Int[Tensor, " p"]]
"""The front and the back instance of every pair."""


@dataclass(frozen=True)
class RelationStatistics:
    """Counts over the significant pairs of a split.

    ``decided``: pairs with an owner by majority, of which ``smaller_on_top`` belong to the smaller mask and
    ``larger_on_top`` to the larger (equal areas count for neither).  ``compared``: pairs that the delta rule decides
    too, and ``agreeing`` those where both rules say the same.
    """

    sig_ratio: float
    pairs: int
    images: int
    decided: int
    smaller_on_top: int
    larger_on_top: int
    compared: int
    agreeing: int


def relation_statistics(
    cache: RelationCache, sig_ratios: Sequence[float] = (0.05, 0.10, 0.20)
) -> tuple[RelationStatistics, ...]:
    """Statistics at every ratio of intersection to smaller mask, from which on a pair is significant."""
    image, instances, ratio = cache.all_pairs()
    first, second = instances.unbind(dim=1)
    area, lost = cache.area.long(), (cache.area - cache.pan_area).long()
    majority = (cache.own_pair[:, 0] - cache.own_pair[:, 1]).sign()
    delta = (lost[second] - lost[first]).sign()
    larger_on_top = majority * (area[first] - area[second]).sign()
    statistics = []
    for sig_ratio in sig_ratios:
        significant = ratio >= sig_ratio
        decided = significant & (majority != 0)
        compared = decided & (delta != 0)
        statistics.append(
            RelationStatistics(
                sig_ratio=sig_ratio,
                pairs=int(significant.sum()),
                images=len(image[significant].unique()),
                decided=int(decided.sum()),
                smaller_on_top=int((decided & (larger_on_top < 0)).sum()),
                larger_on_top=int((decided & (larger_on_top > 0)).sum()),
                compared=int(compared.sum()),
                agreeing=int((compared & (majority == delta)).sum()),
            )
        )
    return tuple(statistics)


def statistics_table(
    rows: Sequence[RelationStatistics], title: str, published: Mapping[float, int] | None = None
) -> Table:
    """A table for the terminal; ``published`` pair counts stand beside the counted ones, labelled as such."""
    columns = {
        "ratio": [f">= {row.sig_ratio:.2f}" for row in rows],
        "pairs": [f"{row.pairs:,}" for row in rows],
        "images": [f"{row.images:,}" for row in rows],
        "owner": [f"{row.decided:,}" for row in rows],
        "smaller on top": [_share(row.smaller_on_top, row.decided) for row in rows],
        "larger on top": [_share(row.larger_on_top, row.decided) for row in rows],
        "delta": [_share(row.agreeing, row.compared) for row in rows],
    }
    caption = (
        "ratio: intersection / smaller mask; owner: pairs whose common pixels belong mostly to one of the two; "
        "smaller, larger on top: share of these where that mask is the owner; delta: share of these where the rule by "
        "lost area agrees, if it decides"
    )
    if published:
        columns["published"] = [f"{published[r.sig_ratio]:,}" if r.sig_ratio in published else "-" for r in rows]
        caption += "; published: pairs of the whole COCO train2017, OCFusion"
    table = Table(*(Column(name, justify="right") for name in columns), title=title, caption=caption)
    for cells in zip(*columns.values(), strict=True):
        table.add_row(*cells)
    return table


def class_table(dataset: CocoPanoptic, sig_ratio: float = SIG_RATIO) -> Int[Tensor, "t t"]:
    """``table[a, b]``: how often an instance of class a lies in front of one of class b in ``dataset``.

    Images whose relations are cached are counted from the cache, without reading any mask.
    """
    things = dataset.categories.num_things
    table = torch.zeros((things, things), dtype=torch.int64)
    uncached = torch.ones(len(dataset), dtype=torch.bool)
    if (cache := dataset.relations) is not None:
        front, back = _cached_pairs(cache, dataset.image_ids, sig_ratio)
        table.index_put_((cache.labels[front], cache.labels[back]), torch.tensor(1), accumulate=True)
        uncached = ~torch.isin(dataset.image_ids, cache.image_ids)
    for index in uncached.nonzero().flatten().tolist():
        target = dataset.target(index)
        front, back = _pairs(target.relation, sig_ratio)
        table.index_put_((target.labels[front], target.labels[back]), torch.tensor(1), accumulate=True)
    return table


def rule_accuracies(
    samples: Iterable[Sample], table: Int[Tensor, "t t"], sig_ratio: float = SIG_RATIO
) -> dict[str, float]:
    """Share of the decided pairs that each rule gets right; a rule that does not decide a pair gets half of it.

    ``smaller``: the smaller full mask is in front.  ``class prior``: the class that was in front more often in
    ``table`` (of other images).  ``file order``: the annotation listed later.
    """
    points: Counter[str] = Counter()  # two for a pair that is right, one for an undecided one
    pairs = 0
    for sample in samples:
        relation, labels = sample.annotations.relation, sample.annotations.labels
        front, back = _pairs(relation, sig_ratio)
        leads = {
            "smaller": relation.area[back] - relation.area[front],
            "class prior": table[labels[front], labels[back]] - table[labels[back], labels[front]],
            "file order": front - back,
        }
        points.update({rule: int((1 + lead.sign()).sum()) for rule, lead in leads.items()})
        pairs += len(front)
    return {rule: count / 2 / pairs for rule, count in points.items()} if pairs else {}


def _pairs(relation: GroundTruthRelation, sig_ratio: float) -> Pairs:
    """The significant pairs of an image whose order the panoptic map decides."""
    front, back = (relation.matrix(sig_ratio) == 1).nonzero(as_tuple=True)
    return front, back


def _cached_pairs(cache: RelationCache, image_ids: Int[Tensor, " n"], sig_ratio: float) -> Pairs:
    """The same of all images of ``image_ids``, as rows of ``cache.labels``."""
    image, pairs, ratio = cache.all_pairs()
    lead = cache.own_pair[:, 0] - cache.own_pair[:, 1]
    decided = (lead != 0) & (ratio >= sig_ratio) & torch.isin(cache.image_ids[image], image_ids)
    front, back = torch.where(lead[:, None] > 0, pairs, pairs.flip(1))[decided].unbind(dim=1)
    return front, back


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "-"
