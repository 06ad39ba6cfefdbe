"""How far simple rules tell the annotated order of overlapping instances: what a learned method has to beat."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import torch
from jaxtyping import Int
from torch import Tensor

from panoptic_occ.data.coco.dataset import CocoPanoptic
from panoptic_occ.data.relations.cache import RelationCache
from panoptic_occ.structures.sample import Sample

SIG_RATIO = 0.2


def decided_pairs(sample: Sample, sig_ratio: float = SIG_RATIO) -> list[tuple[int, int]]:
    """(front, back) of every significant pair of an image whose order the panoptic map decides."""
    assert sample.target is not None
    front, back = (sample.target.relation.matrix(sig_ratio) == 1).nonzero(as_tuple=True)
    return list(zip(front.tolist(), back.tolist(), strict=True))


def class_table(dataset: CocoPanoptic, sig_ratio: float = SIG_RATIO) -> Int[Tensor, "t t"]:
    """``table[a, b]``: how often an instance of class a lies in front of one of class b in ``dataset``.

    Images whose relations are cached are counted from the cache and the annotation files, without reading any mask.
    """
    things = dataset.categories.num_things
    table = torch.zeros((things, things), dtype=torch.int64)
    rest = torch.ones(len(dataset), dtype=torch.bool)
    if dataset.relations is not None:
        front, back = _cached_labels(dataset, dataset.relations, sig_ratio)
        table.index_put_((front, back), torch.tensor(1), accumulate=True)
        rest = ~torch.isin(dataset.image_ids, dataset.relations.image_ids)
    for index in rest.nonzero().flatten().tolist():
        target = dataset.target(index)
        front, back = (target.relation.matrix(sig_ratio) == 1).nonzero(as_tuple=True)
        table.index_put_((target.labels[front], target.labels[back]), torch.tensor(1), accumulate=True)
    return table


def _cached_labels(
    dataset: CocoPanoptic, cache: RelationCache, sig_ratio: float
) -> tuple[Int[Tensor, " p"], Int[Tensor, " p"]]:
    """Classes of the front and the back instance of every decided pair of the images that both hold."""
    image = torch.repeat_interleave(torch.arange(len(cache)), cache.pair_offsets.diff())
    pairs = cache.offsets[image][:, None] + cache.pairs
    lead = cache.own_pair[:, 0] - cache.own_pair[:, 1]
    smaller = cache.area[pairs].amin(dim=1).clamp(min=1)
    decided = (lead != 0) & (cache.inter.double() / smaller.double() >= sig_ratio)
    decided &= torch.isin(cache.image_ids[image], dataset.image_ids)
    image, pairs, lead = image[decided], pairs[decided], lead[decided]
    labels = torch.zeros(len(cache.instance_ids), dtype=torch.int64)
    index_of = {image_id: index for index, image_id in enumerate(dataset.image_ids.tolist())}
    for row in image.unique().tolist():  # only records of images with a decided pair are read
        annotations = dataset.record(index_of[int(cache.image_ids[row])]).annotations
        category_of = {annotation.id: annotation.category_id for annotation in annotations}
        mine = slice(int(cache.offsets[row]), int(cache.offsets[row + 1]))
        ids = cache.instance_ids[mine].tolist()
        labels[mine] = torch.tensor([dataset.categories.label_of(category_of[i], str(i)) for i in ids])
    front, back = torch.where(lead[:, None] > 0, pairs, pairs.flip(1)).unbind(dim=1)
    return labels[front], labels[back]


def rule_accuracies(
    samples: Iterable[Sample], table: Int[Tensor, "t t"], sig_ratio: float = SIG_RATIO
) -> dict[str, float]:
    """Share of the decided pairs that each rule gets right; a rule that does not decide a pair gets half of it.

    ``smaller``: the smaller full mask is in front.  ``class prior``: the class that was in front more often in
    ``table`` (of other images).  ``file order``: the annotation listed later.
    """
    right: Counter[str] = Counter()
    pairs = 0
    for sample in samples:
        target = sample.target
        assert target is not None
        for a, b in decided_pairs(sample, sig_ratio):
            pairs += 1
            classes = int(target.labels[a]), int(target.labels[b])
            right["smaller"] += _half(float(target.relation.area[b] - target.relation.area[a]))
            right["class prior"] += _half(float(table[classes] - table[classes[::-1]]))
            right["file order"] += _half(a - b)
    return {rule: count / 2 / pairs for rule, count in right.items()} if pairs else {}


def _half(lead: float) -> int:
    """2 for right, 1 for undecided, 0 for wrong."""
    return 1 + (lead > 0) - (lead < 0)
