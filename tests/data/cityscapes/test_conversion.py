"""What becomes of the polygons and instance ids, against boxes counted by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from helpers.tiny_cityscapes import STREET, THINGS, Box, TinyCityscapes, paint, random_street
from panoptic_occ.data.cityscapes.labels import CATEGORIES, VOID, label_of
from panoptic_occ.data.cityscapes.polygons import Outline, full_mask, visible_pixels
from panoptic_occ.data.cityscapes.source import CityscapesSource
from panoptic_occ.data.coco.dataset import CocoPanoptic

CLASS_IDS = {3: None, 7: 7, 23: 23, 24: 24, 25: 25, 26: 26, 28: 28, 29: None, 33: 33}


def converted(tiny: TinyCityscapes, cache: Path) -> CityscapesSource:
    source = CityscapesSource(tiny.write(), cache_dir=cache, processes=1)
    source.prepare()
    return source


@pytest.fixture(scope="module")
def street(tmp_path_factory: pytest.TempPathFactory) -> CocoPanoptic:
    """The training images of the tiny data set."""
    folder = tmp_path_factory.mktemp("street")
    return converted(TinyCityscapes(folder / "data"), folder / "cache").split("train")


def test_the_table_of_labels() -> None:
    names = [c.name for c in CATEGORIES.items]
    assert CATEGORIES.num_things == 8 and len(names) == len(set(names)) == 19
    assert names[:8] == ["person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"]
    ids = [c.id for c in CATEGORIES.items]
    assert sorted([*ids, *VOID.values()]) == [-1, *range(34)]  # every official id once
    assert [c.id for c in CATEGORIES.items if not c.isthing] == [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23]
    assert len({c.color for c in CATEGORIES.items}) == 19
    assert label_of("car") == (26, False) and label_of("cargroup") == (26, True)
    assert label_of("polegroup") == (18, False)  # a label of its own, void
    assert label_of("group") is None and label_of("boat") is None and label_of("boatgroup") is None


def test_the_map_is_that_of_the_instance_ids(street: CocoPanoptic) -> None:
    ids, _ = paint(STREET, (24, 40))
    expected = np.zeros_like(ids)
    segments = {}
    for value in np.unique(ids).tolist():
        label = CLASS_IDS[value // 1000 if value >= 1000 else value]
        if label is not None:
            expected[ids == value] = value
            segments[value] = (label, int((ids == value).sum()), label >= 24 and value < 1000)
    panoptic = street.target(0).panoptic
    assert np.array_equal(panoptic.ids.numpy(), expected)
    assert {s.id: (street.categories[s.label].id, s.area, s.iscrowd) for s in panoptic.segments} == segments
    assert [s.id for s in panoptic.segments if s.iscrowd] == [26]
    boxes = {
        s["id"]: s["bbox"]
        for s in json.loads(street.layout.panoptic_json.read_text())["annotations"][0]["segments_info"]
    }
    assert boxes[26] == [28, 2, 10, 8] and boxes[26003] == [2, 6, 16, 12]


def test_instances_are_whole_objects_that_can_be_seen(street: CocoPanoptic) -> None:
    target = street.target(0)
    seen = [STREET[k] for k in (3, 4, 7)]  # neither the hidden person nor group, caravan, plate and deleted car
    assert [street.categories[int(label)].name for label in target.labels] == [box.label for box in seen]
    for mask, box in zip(target.masks.dense().numpy(), seen, strict=True):
        assert np.array_equal(mask, box.mask((24, 40)))
    crowd = [e for e in json.loads(street.layout.instances_json.read_text())["annotations"] if e["iscrowd"]]
    assert [(e["category_id"], e["area"], e["bbox"]) for e in crowd] == [(26, 80, [28, 2, 10, 8])]
    assert street.skipped["crowd instances"] == 1
    assert len(street.target(2).labels) == 0  # road and sky


def test_the_later_of_two_is_in_front(street: CocoPanoptic) -> None:
    relation = street.target(0).relation
    assert relation.matrix(0.0).tolist() == [[-1, 0, 0], [1, -1, 0], [1, 1, -1]]
    assert relation.inter[0, 1] == 8 * 10 and relation.visible[0, 1] == 0 and relation.visible[1, 0] == 80 - 3 * 8


@pytest.mark.parametrize("seed", range(6))
def test_order_of_random_streets(seed: int, tmp_path: Path) -> None:
    """Later is in front where a common pixel shows one of the two; no order where a third hides all of them."""
    size = (60, 100)
    boxes = random_street(np.random.default_rng(seed), size, 9)
    streets = {("train", "a/a_0_0"): boxes, ("val", "b/b_0_0"): boxes}
    target = converted(TinyCityscapes(tmp_path / "data", size, streets), tmp_path).split("train").target(0)
    ids, values = paint(boxes, size)
    visible = [k for k, box in enumerate(boxes) if box.label in THINGS and (ids == values[k]).any()]
    expected = np.full((len(visible), len(visible)), -1)
    for a, i in enumerate(visible):
        for b, j in enumerate(visible):
            common = boxes[i].mask(size) & boxes[j].mask(size)
            if i != j and np.isin(ids[common], (values[i], values[j])).any():
                expected[a, b] = i > j
    assert np.array_equal(target.relation.matrix(0.0).numpy(), expected)
    owners = [s.id for s in target.panoptic.segments if s.isthing]
    assert sorted(owners) == sorted(values[k] for k in visible)


def test_a_pair_that_a_third_hides_has_no_order(tmp_path: Path) -> None:
    boxes = (*STREET[:2], Box("car", 2, 6, 15, 17), Box("bus", 10, 6, 25, 17), Box("person", 9, 4, 16, 19))
    streets = {("train", "a/a_0_0"): boxes, ("val", "b/b_0_0"): boxes}
    target = converted(TinyCityscapes(tmp_path / "data", streets=streets), tmp_path).split("train").target(0)
    assert target.relation.inter[0, 1] == 6 * 12
    assert target.relation.matrix(0.0).tolist() == [[-1, -1, 0], [-1, -1, 0], [1, 1, -1]]


def test_a_mask_is_the_inside_with_its_outline_and_ends_with_the_image() -> None:
    ys, xs = np.mgrid[:12, :20]
    triangle = Outline(26, False, ((0.0, 0.0), (8.0, 0.0), (0.0, 8.0)))
    mask = full_mask(triangle, (12, 20))
    assert mask.dtype == np.uint8 and mask.flags.f_contiguous
    assert np.array_equal(mask, xs + ys <= 8)
    outside = Outline(26, False, ((-5.0, 3.0), (30.0, 3.0), (30.0, 40.0), (-5.0, 40.0)))
    assert np.array_equal(full_mask(outside, (12, 20)), ys >= 3)
    assert visible_pixels([triangle, outside], (12, 20)).tolist() == [9 + 8 + 7, 9 * 20]
    assert visible_pixels([], (12, 20)).tolist() == []
