"""Training instances cut from the panoptic map (``inst_gt=panoptic``)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from panoptic_occ.common.errors import ConfigError
from panoptic_occ.data.coco.dataset import CocoPanoptic
from panoptic_occ.data.coco.source import CocoSource, relations_path
from panoptic_occ.data.loading.transforms import TrainTransform
from panoptic_occ.data.relations.build import ensure_relations
from panoptic_occ.data.relations.preparation import prepare
from panoptic_occ.data.scenes.source import ScenesSource
from panoptic_occ.structures.masks import PairStats
from panoptic_occ.structures.target import Target


def disjoint(target: Target) -> bool:
    """Whether masks and relation agree that no two instances meet and every mask is its own segment."""
    relation, stats = target.relation, PairStats.of(target.masks)
    return all(
        torch.equal(found, expected)
        for found, expected in (
            (relation.area, stats.area),
            (relation.pan_area, stats.area),
            (relation.inter, torch.diag(stats.area)),
            (relation.own, torch.diag(stats.area)),
            (stats.inter, torch.diag(stats.area)),
        )
    )


def test_segments_of_the_tiny_set(tiny_coco: Any) -> None:
    data = CocoPanoptic.from_root(tiny_coco.write(), tiny_coco.split, inst_gt="panoptic")
    target = data.target(0)
    assert target.labels.tolist() == [0, 1]  # the crowd of dogs is none
    assert target.instance_ids.tolist() == [1, 2]
    assert target.boxes.tolist() == [[1, 1, 9, 9], [5, 6, 13, 10]]
    ids = tiny_coco.ids[5]
    assert np.array_equal(target.masks.dense().numpy(), np.stack([ids == 1, ids == 2]))
    assert target.relation.area.tolist() == target.relation.pan_area.tolist() == [52, 32]
    assert disjoint(target) and (target.relation.matrix(0.0) == -1).all()
    for index in (1, 2):  # sky only; a cat that only the instances JSON knows
        empty = data.target(index)
        assert len(empty.masks) == len(empty.relation) == len(empty.labels) == 0
        assert empty.boxes.shape == (0, 4) and empty.relation.inter.shape == (0, 0)


def test_images_without_segments_of_things_are_left_out(tiny_coco: Any) -> None:
    root = tiny_coco.write()
    kept = {
        truth: CocoPanoptic.from_root(root, tiny_coco.split, skip_empty=True, inst_gt=truth).image_ids.tolist()  # type: ignore[arg-type]
        for truth in ("coco", "panoptic")
    }
    assert kept == {"coco": [5, 7], "panoptic": [5]}


def test_a_segment_in_parts_stays_one_instance(tiny_coco: Any) -> None:
    tiny_coco.ids[5][0, :3] = 1  # three pixels of sky become cat
    tiny_coco.segment(1)["area"] += 3
    tiny_coco.segment(300)["area"] -= 3
    target = CocoPanoptic.from_root(tiny_coco.write(), tiny_coco.split, inst_gt="panoptic").target(0)
    assert target.boxes[0].tolist() == [0, 0, 9, 9]
    assert target.relation.area.tolist() == [55, 32]


def test_transforms_keep_the_relation_consistent(tiny_coco: Any) -> None:
    data = CocoPanoptic.from_root(tiny_coco.write(), tiny_coco.split, inst_gt="panoptic")
    sample = TrainTransform(short_edge=[12], max_edge=16, flip=1.0)(data.load(0), 0)
    assert disjoint(sample.annotations) and sample.annotations.labels.tolist() == [0, 1]
    assert sample.annotations.boxes.tolist() == [[7, 1, 15, 9], [3, 6, 11, 10]]


def both_splits(tiny_coco: Any) -> Path:
    """The tiny set as training and as validation split."""
    tiny_coco.write()
    tiny_coco.split = "train2017"
    return Path(tiny_coco.write())


def test_only_training_images_change(tiny_coco: Any, tmp_path: Path) -> None:
    root = both_splits(tiny_coco)
    sources = {
        truth: CocoSource(root, cache_dir=tmp_path / "cache", inst_gt=truth)  # type: ignore[arg-type]
        for truth in ("coco", "panoptic")
    }
    areas = {
        (truth, split): source.split(split).target(0).relation.area.tolist()  # type: ignore[arg-type]
        for truth, source in sources.items()
        for split in ("train", "val")
    }
    assert areas.pop(("panoptic", "train")) == [52, 32]
    assert list(areas.values()) == [[64, 32]] * 3


@pytest.mark.parametrize("first", ["coco", "panoptic"])
def test_one_cache_of_the_annotated_instances(tiny_coco: Any, tmp_path: Path, first: str) -> None:
    """Whichever truth prepares the data, the file holds the annotations, and cut instances never read it."""
    root = both_splits(tiny_coco)
    sources = {
        truth: CocoSource(root, cache_dir=tmp_path / "cache", inst_gt=truth)  # type: ignore[arg-type]
        for truth in ("coco", "panoptic")
    }
    prepare(sources[first])
    annotated, cut = (sources[truth].split("train") for truth in ("coco", "panoptic"))
    assert annotated.relations is not None and cut.relations is None
    assert relations_path(sources["coco"], annotated) == relations_path(sources["panoptic"], cut)
    assert annotated.target(0).relation.own.tolist() == [[52, 0], [12, 32]]
    assert cut.target(0).relation.own.tolist() == [[52, 0], [0, 32]]
    cut.relations = ensure_relations(annotated, relations_path(sources["coco"], annotated))
    assert disjoint(cut.target(0))  # not even then


def test_scenes(tmp_path: Path) -> None:
    source = ScenesSource(size=64, train_images=3, val_images=2, cache_dir=tmp_path, processes=1, inst_gt="panoptic")
    source.prepare()
    train, val = source.split("train"), source.split("val")
    assert val.relations is not None
    overlapping = 0
    for index in range(3):
        assert disjoint(train.target(index))
    for index in range(2):
        stats = PairStats.of(val.target(index).masks)
        overlapping += int((stats.inter > 0).sum()) - len(stats.area)
    assert overlapping > 0
    # every instance of a painted scene keeps a part, so the cut ones are the visible parts of the annotated ones
    full = ScenesSource(size=64, train_images=3, val_images=2, cache_dir=tmp_path, processes=1).split("train")
    for index in range(3):
        visible, relation = train.target(index).relation.area, full.target(index).relation
        assert sorted(visible.tolist()) == sorted(relation.pan_area.tolist())
        assert (relation.area.sum() > visible.sum()).item()


@pytest.mark.parametrize("make", [CocoSource, ScenesSource])
def test_unknown_values_are_answered(make: Any) -> None:
    with pytest.raises(ConfigError, match=r"data\.source\.inst_gt='panoptc' is unknown; did you mean 'panoptic'"):
        make(inst_gt="panoptc")
