"""However ids and truth values are written, every reader sees one truth."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any

import pytest
import torch

from panoptic_occ.common.scalars import truth_value, whole_number
from panoptic_occ.data.coco.dataset import CocoPanoptic
from panoptic_occ.data.coco.doctor import check
from panoptic_occ.data.relations.build import build_relations
from panoptic_occ.metrics.average_precision import AveragePrecision
from panoptic_occ.structures.instances import InstanceSet


def annotation_ids(new: Callable[[int], Any]) -> Callable[[Any], None]:
    """Every annotation gets the id that ``new`` makes of its place in the file; None: none."""

    def write(tiny: Any) -> None:
        for k, entry in enumerate(tiny.instances):
            entry["id"] = new(k)
            if entry["id"] is None:
                del entry["id"]

    return write


def everywhere(key: str, form: Callable[[Any], Any]) -> Callable[[Any], None]:
    """Every value of ``key``, in all lists of both files, in another form."""

    def write(tiny: Any) -> None:
        segments = [segment for note in tiny.panoptic for segment in note["segments_info"]]
        entries = [*tiny.panoptic, *segments, *tiny.instances, *tiny.categories, *tiny.instance_categories]
        lists = {"image": [*tiny.images, *tiny.instance_images], "category": tiny.categories + tiny.instance_categories}
        for entry in lists.get(key.removesuffix(" id"), entries):
            name = "id" if key.endswith(" id") else key
            if name in entry:
                entry[name] = form(entry[name])

    return write


def both(*changes: Callable[[Any], None]) -> Callable[[Any], None]:
    return lambda tiny: [change(tiny) for change in changes] and None


WRITTEN = {
    "annotation ids from 0": annotation_ids(lambda k: k),
    "annotation ids that repeat": annotation_ids(lambda k: 1 + k % 2),
    "annotation ids that are all equal": annotation_ids(lambda k: 0),
    "annotation ids as text": annotation_ids(str),
    "annotation ids as names": annotation_ids("ann_{}".format),
    "annotation ids of 70 bits": annotation_ids(lambda k: 2**70 + k),
    "no annotation ids": annotation_ids(lambda k: None),
    "image ids as text": both(everywhere("image id", "{:012}".format), everywhere("image_id", str)),
    "category ids as text": both(everywhere("category id", str), everywhere("category_id", " {}".format)),
    "whole floats": both(everywhere("category_id", float), everywhere("image_id", float)),
    "truth values as text": both(everywhere("isthing", str), everywhere("iscrowd", str)),
    "truth values as words": both(
        everywhere("isthing", lambda n: str(bool(n))), everywhere("iscrowd", lambda n: str(bool(n)).upper())
    ),
    "truth values of JSON": both(everywhere("isthing", bool), everywhere("iscrowd", bool)),
    "null for no crowd": lambda tiny: [e.update(iscrowd=None) for e in tiny.instances if not e["iscrowd"]],
    "areas of instances as text": lambda tiny: [entry.update(area=f"{entry['area']}") for entry in tiny.instances],
    "crowds alone are marked": lambda tiny: [entry.pop("iscrowd") for entry in tiny.instances if not entry["iscrowd"]],
}


def said(data: CocoPanoptic) -> list[Any]:
    """All that the annotations say, but for the ids of the instances."""
    targets = [data.target(index) for index in range(len(data))]
    relations = [tuple(vars(target.relation)[name].tolist() for name in ("inter", "visible")) for target in targets]
    masks = [(target.labels.tolist(), target.masks.dense().tolist()) for target in targets]
    maps = [(target.panoptic.ids.tolist(), target.panoptic.segments) for target in targets]
    return [data.image_ids.tolist(), data.categories, data.skipped, masks, relations, maps]


@pytest.mark.parametrize("written", WRITTEN)
def test_every_reader_sees_the_same_truth(tiny_coco: Any, tmp_path: Any, written: str) -> None:
    plain = said(tiny_coco.data())
    WRITTEN[written](tiny_coco)
    data = tiny_coco.data()
    assert said(data) == plain
    ids = torch.cat([data.target(index).instance_ids for index in range(len(data))])
    assert len(ids.unique()) == len(ids) == 3 and ids.min() > 0
    assert len(build_relations(data, tmp_path / "relations.safetensors").pairs) == 1
    assert not any(problem.fatal for problem in check(data))
    precision = AveragePrecision(data.layout.instances_json, data.categories)
    for index in range(len(data)):
        target, scores = data.target(index), count(1)
        detected = torch.tensor([1 / next(scores) for _ in target.labels])
        precision.update(data.record(index).image_id, InstanceSet(target.masks, target.boxes, detected, target.labels))
    scores = precision.compute()
    assert scores["AP_box"] == scores["AP_mask"] == pytest.approx(1)


def test_messages_have_the_ids_of_the_file(tiny_coco: Any) -> None:
    tiny_coco.instance(12).update(id="dog_1", segmentation=[])
    tiny_coco.instance(14).update(segmentation=[])
    del tiny_coco.instances[3]["id"]
    data = tiny_coco.data()
    assert [problem.place.partition(": ")[2] for problem in check(data) if problem.kind == "degenerate mask"] == [
        "image 5, id dog_1",
        "image 7, id no. 4",
    ]


@pytest.mark.parametrize("value", ["1.0", "x", "", "1_0", "٣", None, True, [1], 1.5, float("nan"), float("inf")])
def test_what_is_no_whole_number(value: Any) -> None:
    with pytest.raises(ValueError, match="no whole number"):
        whole_number(value)


@pytest.mark.parametrize("value", ["yes", "", 2, -1, "01", None, [], 0.5, float("nan")])
def test_what_is_no_truth_value(value: Any) -> None:
    with pytest.raises(ValueError, match="allowed: 0, 1, true or false"):
        truth_value(value)


PAIRS = [[5, 6], [13, 6], [13, 10], [5, 10]]


@pytest.mark.parametrize("segmentation", [[PAIRS], PAIRS])
def test_corners_as_pairs(tiny_coco: Any, segmentation: Any) -> None:
    plain = said(tiny_coco.data())
    tiny_coco.instance(12).update(segmentation=segmentation)
    assert said(tiny_coco.data()) == plain


def test_backslashes_in_names(tiny_coco: Any) -> None:
    tiny_coco.write()
    for folder, ending in ((tiny_coco.layout.images, "jpg"), (tiny_coco.layout.panoptic, "png")):
        (folder / "sub").mkdir()
        (folder / f"0005.{ending}").rename(folder / "sub" / f"0005.{ending}")
    tiny_coco.images[0]["file_name"], tiny_coco.panoptic[0]["file_name"] = "sub\\0005.jpg", "sub\\0005.png"
    tiny_coco.write_lists()
    data = CocoPanoptic(tiny_coco.layout)
    assert data.load(0).file_name == "sub/0005.jpg" and not check(data)
