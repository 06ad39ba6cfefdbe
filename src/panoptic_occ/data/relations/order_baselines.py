"""How far simple rules tell the annotated order of overlapping instances: what a learned method has to beat."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import torch
from jaxtyping import Int
from torch import Tensor

from panoptic_occ.data.coco.dataset import CocoPanoptic
from panoptic_occ.data.relations.cache import RelationCache
from panoptic_occ.structures.relation import GroundTruthRelation
from panoptic_occ.structures.sample import Sample

SIG_RATIO = 0.2

Pairs = tuple[Int[Tensor, " p"], Int[Tensor, " p"]]
"""The front and the back instance of every pair."""


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
