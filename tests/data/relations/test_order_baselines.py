"""Counting class pairs from the relation cache against counting them from the masks."""

import torch

from panoptic_occ.data.coco.dataset import CocoPanoptic
from panoptic_occ.data.coco.layout import Layout
from panoptic_occ.data.relations.build import build_relations
from panoptic_occ.data.relations.cache import ImageRelation, RelationCache
from panoptic_occ.data.relations.statistics import class_table
from panoptic_occ.structures.relation import GroundTruthRelation


def forbidden(*_args):
    raise AssertionError("a mask or map was read")


def slow_tables(dataset, sig_ratios):
    """Pair by pair, from the annotations; a table for every ratio."""
    tables = [torch.zeros((dataset.categories.num_things,) * 2, dtype=torch.int64) for _ in sig_ratios]
    for index in range(len(dataset)):
        target = dataset.target(index)
        own, masks = target.relation.visible, target.masks.dense()
        for a in range(len(masks)):
            for b in range(len(masks)):
                common = int((masks[a] & masks[b]).sum())
                if a == b or common == 0 or own[a, b] <= own[b, a]:
                    continue
                share = common / min(int(masks[a].sum()), int(masks[b].sum()))
                for table, sig_ratio in zip(tables, sig_ratios, strict=True):
                    table[target.labels[a], target.labels[b]] += share >= sig_ratio
    return tables


def test_the_cache_and_the_masks_give_the_same_table(coco_mini, tmp_path, monkeypatch):
    sig_ratios = (0.0, 0.2, 0.5)
    data = CocoPanoptic(Layout.of(coco_mini, "val2017"))
    expected = slow_tables(data, sig_ratios)
    sums = [int(table.sum()) for table in expected]
    assert sums[0] > sums[1] > sums[2] > 5 and not torch.equal(expected[0], expected[0].T)
    assert torch.equal(class_table(data, 0.2), expected[1])
    images = [
        ImageRelation(int(image_id), target.labels, target.relation)
        for index, image_id in enumerate(data.image_ids)
        if index % 2 and (target := data.target(index))
    ]
    data.relations = RelationCache.of(images)  # the others are counted from their masks
    assert torch.equal(class_table(data, 0.2), expected[1])
    data.relations = build_relations(data, tmp_path / "relations.safetensors")
    monkeypatch.setattr(CocoPanoptic, "target", forbidden)
    monkeypatch.setattr("panoptic_occ.data.coco.dataset.read_panoptic", forbidden)
    for sig_ratio, table in zip(sig_ratios, expected, strict=True):
        assert torch.equal(class_table(data, sig_ratio), table)


def test_images_of_the_cache_that_the_split_leaves_out_do_not_count(tiny_coco):
    """A cache of another selection of the same annotations: image 5 has the one pair, dog before cat."""
    data = tiny_coco.data()
    data.relations = RelationCache.of([image(5, front=1), image(6, front=0)])
    table = class_table(data)
    assert table.sum() == 1 and table[1, 0] == 1


def image(image_id, front):
    """A cat (label 0) and a dog (1)."""
    own = torch.zeros((2, 2), dtype=torch.int64)
    own[front, 1 - front] = 12
    inter = torch.tensor([[64, 12], [12, 32]])
    return ImageRelation(image_id, torch.arange(2), GroundTruthRelation(inter.diagonal(), inter.diagonal(), inter, own))
