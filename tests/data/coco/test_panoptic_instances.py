"""Training instances cut from the panoptic map (``inst_gt=panoptic``)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from panoptic_occ.common.errors import ConfigError
from panoptic_occ.data.cityscapes.source import CityscapesSource
from panoptic_occ.data.coco.source import CocoSource
from panoptic_occ.data.loading.transforms import TrainTransform
from panoptic_occ.data.relations.build import ensure_relations
from panoptic_occ.data.relations.preparation import prepare
from panoptic_occ.data.scenes.source import ScenesSource
from panoptic_occ.structures.masks import PairStats
from panoptic_occ.structures.target import Target


def disjoint(target: Target) -> bool:
    """Whether masks and relation agree that no two instances meet and every mask is its own segment."""
    relation, stats = target.relation, PairStats.of(target.masks)
    matrices = (relation.inter, relation.visible, stats.inter)
    return (
        torch.equal(relation.area, stats.area)
        and torch.equal(relation.pan_area, stats.area)
        and all(torch.equal(matrix, torch.diag(stats.area)) for matrix in matrices)
    )


def test_segments_of_the_tiny_set(tiny_coco: Any) -> None:
    data = tiny_coco.data(inst_gt="panoptic")
    target = data.target(0)
    assert target.labels.tolist() == [0, 1]  # the crowd of dogs is none
    assert target.instance_ids.tolist() == [1, 2]
    assert target.boxes.tolist() == [[1, 1, 9, 9], [5, 6, 13, 10]]
    ids = tiny_coco.ids[5]
    assert np.array_equal(target.masks.dense().numpy(), np.stack([ids == 1, ids == 2]))
    assert target.relation.area.tolist() == [52, 32]
    assert disjoint(target) and (target.relation.matrix(0.0) == -1).all()
    for index in (1, 2):  # sky only; a cat that only the instances JSON knows
        empty = data.target(index)
        assert len(empty.masks) == len(empty.relation) == len(empty.labels) == 0
        assert empty.boxes.shape == (0, 4) and empty.relation.inter.shape == (0, 0)
    assert tiny_coco.data(inst_gt="panoptic", skip_empty=True).image_ids.tolist() == [5]
    flipped = TrainTransform(short_edge=[12], max_edge=16, flip=1.0)(data.load(0), 0).annotations
    assert disjoint(flipped) and flipped.boxes.tolist() == [[7, 1, 15, 9], [3, 6, 11, 10]]


def test_a_segment_in_parts_stays_one_instance(tiny_coco: Any) -> None:
    tiny_coco.ids[5][0, :3] = 1  # three pixels of sky become cat
    tiny_coco.segment(1)["area"] += 3
    tiny_coco.segment(300)["area"] -= 3
    target = tiny_coco.data(inst_gt="panoptic").target(0)
    assert target.boxes[0].tolist() == [0, 0, 9, 9]
    assert target.relation.area.tolist() == [55, 32]


@pytest.mark.parametrize("first", ["coco", "panoptic"])
def test_one_cache_of_the_annotated_instances(tiny_coco: Any, tmp_path: Path, first: str) -> None:
    """Whichever truth prepares the data, the file holds the annotations, and cut instances never read it."""
    tiny_coco.write()
    tiny_coco.split = "train2017"
    root, cache = tiny_coco.write(), tmp_path / "cache"
    sources = {truth: CocoSource(root, cache_dir=cache, inst_gt=truth) for truth in ("coco", "panoptic")}  # type: ignore[arg-type]
    prepare(sources[first])
    annotated, cut = (sources[truth].split("train") for truth in ("coco", "panoptic"))
    assert annotated.relations is not None and cut.relations is None
    path = sources["coco"].relations_path(annotated)
    assert path == sources["panoptic"].relations_path(cut)
    assert annotated.target(0).relation.visible.tolist() == [[52, 0], [12, 32]]
    assert cut.target(0).relation.visible.tolist() == [[52, 0], [0, 32]]
    cut.relations = ensure_relations(annotated, path)
    assert disjoint(cut.target(0))  # not even then
    for source in sources.values():  # only training images change
        assert source.split("val").target(0).relation.area.tolist() == [64, 32]


def test_scenes(tmp_path: Path) -> None:
    settings = {"size": 64, "train_images": 3, "val_images": 2, "cache_dir": tmp_path, "processes": 1}
    source = ScenesSource(**settings, inst_gt="panoptic")  # type: ignore[arg-type]
    source.prepare()
    train, val, full = source.split("train"), source.split("val"), ScenesSource(**settings).split("train")  # type: ignore[arg-type]
    assert val.relations is not None and not all(disjoint(val.target(index)) for index in range(2))
    # every instance of a painted scene keeps a part, so the cut ones are the visible parts of the annotated ones
    for index in range(3):
        assert disjoint(train.target(index))
        visible, relation = train.target(index).relation.area, full.target(index).relation
        assert sorted(visible.tolist()) == sorted(relation.pan_area.tolist())
        assert (relation.area.sum() > visible.sum()).item()


@pytest.mark.parametrize("make", [CocoSource, ScenesSource, CityscapesSource])
def test_unknown_values_are_answered(make: Any) -> None:
    with pytest.raises(ConfigError, match=r"data\.source\.inst_gt='panoptc' is unknown; did you mean 'panoptic'"):
        make(inst_gt="panoptc")
    with pytest.raises(ConfigError, match=r"data\.source\.match='shore' is unknown.*allowed: box, share"):
        make(match="shore")
