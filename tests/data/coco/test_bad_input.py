"""Every fault of a data set gives one error that names file, image, id, value, allowed set and fix."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as rle_tools
from rich.console import Console

from panoptic_occ.common.errors import DataError
from panoptic_occ.data.coco.dataset import CocoPanoptic
from panoptic_occ.data.coco.doctor import check
from panoptic_occ.data.coco.source import CocoSource
from panoptic_occ.data.relations.preparation import prepare
from panoptic_occ.structures.segmentation import rle_length

Spoil = Callable[[Any], Any]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def resave(path: Path, mode: str, size: tuple[int, int] = (16, 12)) -> None:
    Image.new(mode, size).save(path)


def instance(**values: Any) -> Spoil:
    return lambda tiny: tiny.instance(12).update(values)


def runs(*counts: Any) -> Spoil:
    return instance(segmentation={"size": [12, 16], "counts": list(counts)})


def one_more(**values: Any) -> Spoil:
    segment = {"category_id": 17, "area": 3, "iscrowd": 0, **values}
    return lambda tiny: tiny.panoptic[0]["segments_info"].append(segment)


# What goes wrong before the files are written, after it, and what the error must say.
FATAL: dict[str, tuple[Spoil, list[str]]] = {
    "unknown category of a segment": (
        lambda t: t.segment(2).update(category_id=181),
        ["panoptic_val2017.json: image 5, id 2", "category_id 181", "allowed: 101, 17, 18", "did you mean '18'"],
    ),
    "unknown category of an instance": (
        instance(category_id=3),
        ["instances_val2017.json: image 5, id 12", "category_id 3", "allowed: 101, 17, 18"],
    ),
    "id in the PNG only": (
        lambda t: t.ids[5][10].__setitem__(0, 77),
        ["0005.png: image 5, id 77", "1 pixels", "listed: 1, 2, 300, 70000", "add the segment"],
    ),
    "id in the JSON only": (
        one_more(id=6),
        ["panoptic_val2017.json: image 5, id 6", "no pixel in 0005.png", "0, 1, 2, 300, 70000", "remove the segment"],
    ),
    "segment id 0": (one_more(id=0), ["image 5, id 0", "1 .. 16777215"]),
    "segment id twice": (one_more(id=2), ["image 5, id 2", "two segments have this id"]),
    "size of the instances JSON": (
        lambda t: t.instance_images[0].update(width=17),
        ["instances_val2017.json: image 5", "(12, 17)", "(12, 16)", "must agree"],
    ),
    "image not in the instances JSON": (
        lambda t: t.instance_images.pop(1),
        ["instances_val2017.json: image 9", "not in the instances JSON"],
    ),
    "RLE of another size": (
        instance(segmentation={"size": [16, 12], "counts": [192]}),
        ["image 5, id 12", "RLE of size [16, 12]", "(12, 16)"],
    ),
    "RLE of too few pixels": (runs(3, 2), ["image 5, id 12", "RLE of 5 pixels in an image of 192"]),
    "RLE of too many pixels": (runs(3, 200), ["image 5, id 12", "RLE of 203 pixels"]),
    "RLE that is cut off": (
        lambda t: t.instance(12)["segmentation"].update(counts=t.instance(12)["segmentation"]["counts"][:-3]),
        ["image 5, id 12", "malformed"],
    ),
    "RLE of foreign characters": (
        instance(segmentation={"size": [12, 16], "counts": "~~ ~"}),
        ["image 5, id 12", "characters that do not belong there"],
    ),
    "RLE without counts": (instance(segmentation={"size": [12, 16]}), ["image 5, id 12", "counts"]),
    "negative run": (runs(-3, 195), ["image 5, id 12", "the RLE holds a negative run: -3"]),
    "negative run later": (runs(3, -2, 191), ["image 5, id 12", "the RLE holds a negative run: -2"]),
    "endless run": (runs(2**70, 1), ["image 5, id 12", "malformed"]),
    "run of nothing": (runs(None), ["image 5, id 12", "malformed"]),
    "run of letters": (runs("a"), ["image 5, id 12", "malformed"]),
    "no segmentation": (instance(segmentation=None), ["image 5, id 12", "malformed"]),
    "polygon of odd length": (
        instance(segmentation=[[1, 1, 5, 1, 5, 5, 2]]),
        ["image 5, id 12", "odd number of coordinates"],
    ),
    "polygon with a NaN": (instance(segmentation=[[1, 1, 5, 1, 5, float("nan")]]), ["image 5, id 12", "not finite"]),
    "far corner": (instance(segmentation=[[1e300, 1, 5, 1, 5, 5]]), ["image 5, id 12", "beyond 1000000"]),
    "box": (instance(segmentation=[[5, 6, 8, 4]]), ["image 5, id 12", "[5, 6, 8, 4] is the box", "not an outline"]),
    "flat list": (instance(segmentation=[5, 6, 8, 6, 8, 9]), ["image 5, id 12", "one list of numbers; a list of poly"]),
    "name": (instance(segmentation="dog.png"), ["image 5, id 12", "'dog.png', neither a list of polygons nor an RLE"]),
    "farther corner": (instance(segmentation=[[2**70, 1, 5, 1, 5, 5]]), ["image 5, id 12", "beyond 1000000"]),
}

FATAL_FILES: dict[str, tuple[Spoil, list[str]]] = {
    "missing image": (lambda t: t.image_path(5).unlink(), ["0005.jpg: image 5", "does not exist", "fetch it again"]),
    "missing PNG": (lambda t: t.png_path(5).unlink(), ["0005.png: image 5", "does not exist", "check the JSON"]),
    "truncated image": (lambda t: cut(t.image_path(5)), ["0005.jpg: image 5", "cannot be decoded", "fetch it again"]),
    "truncated PNG": (lambda t: cut(t.png_path(5)), ["0005.png: image 5", "cannot be decoded", "fetch"]),
    "text as image": (lambda t: t.image_path(5).write_text("no image"), ["0005.jpg: image 5", "cannot be decoded"]),
    "gray PNG": (lambda t: resave(t.png_path(5), "L"), ["0005.png: image 5", "mode L", "RGB"]),
    "gray PNG with alpha": (lambda t: resave(t.png_path(5), "LA"), ["0005.png: image 5", "mode LA"]),
    "PNG of 16 bits": (lambda t: resave(t.png_path(5), "I;16"), ["0005.png: image 5", "mode I;16"]),
    "size of the image": (
        lambda t: resave(t.image_path(5), "RGB", (15, 12)),
        ["0005.jpg: image 5", "(12, 15)", "(12, 16)"],
    ),
    "size of the PNG": (
        lambda t: resave(t.png_path(5), "RGB", (16, 13)),
        ["0005.png: image 5", "(13, 16)", "(12, 16)"],
    ),
}


@pytest.mark.parametrize("fault", [*FATAL, *FATAL_FILES])
def test_fault_of_an_image(tiny_coco: Any, fault: str) -> None:
    spoil, parts = (FATAL | FATAL_FILES)[fault]
    tiny_coco.instance(14).update(category_id=3)  # of a later image
    if fault in FATAL:
        spoil(tiny_coco)
    data = tiny_coco.data()
    if fault in FATAL_FILES:
        spoil(tiny_coco)
    with pytest.raises(DataError) as error:
        for index in range(len(data)):
            data.load(index)
    assert all(part in str(error.value) for part in parts), error.value
    problem, *_, last = check(data)  # the data doctor says the same, and goes on
    assert problem.fatal and str(problem) == str(error.value)
    assert (last.kind, last.image_id, last.id) == ("unknown category", 7, 14)


TOLERATED: dict[str, tuple[Spoil, str, int, list[int]]] = {
    "wrong area": (lambda t: t.segment(2).update(area=33), "wrong area", 2, [11, 12]),
    "polygon of a point": (instance(segmentation=[[4, 4, 4, 4, 4, 4]]), "degenerate mask", 12, [11]),
    "polygon of two corners": (instance(segmentation=[[1, 1, 5, 5]]), "malformed polygon", 12, [11]),
    "two pairs": (instance(segmentation=[[1, 1], [5, 5]]), "malformed polygon", 12, [11]),
    "stuff instance": (
        lambda t: t.instances.append({**t.instance(12), "id": 15, "category_id": 101}),
        "instance of stuff",
        15,
        [11, 12],
    ),
    "no polygon": (instance(segmentation=[]), "degenerate mask", 12, [11]),
    "polygon outside": (instance(segmentation=[[20, 1, 25, 1, 25, 5]]), "degenerate mask", 12, [11]),
    "empty RLE": (runs(192), "degenerate mask", 12, [11]),
    "box outside": (instance(bbox=[12, 6, 8, 4]), "box outside the image", 12, [11, 12]),
}


@pytest.mark.parametrize(("spoil", "kind", "number", "kept"), TOLERATED.values(), ids=TOLERATED.keys())
def test_a_tolerated_fault_is_counted(
    tiny_coco: Any, caplog: pytest.LogCaptureFixture, spoil: Spoil, kind: str, number: int, kept: list[int]
) -> None:
    spoil(tiny_coco)
    data = tiny_coco.data()
    target = data.target(0)
    data.target(0)
    assert data.warnings == {kind: 2}
    assert sum(record.levelno >= logging.WARNING for record in caplog.records) == 1  # the others are counted
    assert f"image 5, id {number}" in caplog.text
    assert target.instance_ids.tolist() == kept
    assert len(target.masks) == len(target.boxes) == len(target.relation) == len(kept)
    (problem,) = check(data)
    assert (problem.kind, problem.image_id, problem.id, problem.fatal) == (kind, 5, number, False)
    if kind == "wrong area":
        assert {s.id: s.area for s in target.panoptic.segments}[2] == 33  # the JSON is trusted, as in the official tool
        assert "area 33 in the JSON, 32 pixels" in caplog.text


STRUCTURE: dict[str, tuple[Spoil, str]] = {
    "no image": (lambda t: (t.images.clear(), t.panoptic.clear()), "panoptic_val2017.json: .* holds no image"),
    "no category": (lambda t: t.categories.clear(), "panoptic_val2017.json: .*categories is empty"),
    "image id twice": (lambda t: t.images.append(t.images[0]), "panoptic_val2017.json: image id 5 appears twice"),
    "endless image id": (
        lambda t: [images[0].update(id=2**70) for images in (t.images, t.instance_images)],
        "panoptic_val2017.json: an image has the id .* 64 bits",
    ),
    "two annotations": (lambda t: t.panoptic.append(t.panoptic[0]), "image 5 is listed twice in 'annotations'"),
    "image without annotation": (lambda t: t.panoptic.pop(), r"image 7 \('0007.jpg'\) has no panoptic annotation"),
    "annotation without image": (lambda t: t.images.pop(), "panoptic_val2017.json: .*'0007.png' belongs to image 7"),
    "instance of no image": (
        instance(image_id=99),
        "instances_val2017.json: annotation 12 belongs to image 99",
    ),
    "key missing": (lambda t: t.segment(2).pop("area"), "image 5, segment 2 lacks 'area'"),
    "infinite area": (
        lambda t: t.segment(2).update(area=float("inf")),
        "image 5, segment 2 has the area inf; a number is needed",
    ),
    "word as category": (
        instance(category_id="dog"),
        "annotation 12 of image 5 has the category_id 'dog'; a whole number",
    ),
    "infinite category": (instance(category_id=float("inf")), "annotation 12 .* category_id inf; a whole number"),
    "endless segment id": (one_more(id=2**70), "image 5, a segment has the id .*; a whole number of 64 bits"),
    "name as image id": (instance(image_id="cat"), "annotation 12 has the image_id 'cat'; a whole number"),
    "part of a number": (instance(image_id=5.5), "annotation 12 has the image_id 5.5; a whole number"),
    "half a crowd": (
        instance(iscrowd="maybe"),
        "annotation 12 of image 5 has the iscrowd 'maybe'; 0, 1, true or false",
    ),
    "crowd of two": (lambda t: t.segment(2).update(iscrowd=2), "image 5, segment 2 has the iscrowd 2; 0, 1, true or"),
    "half a thing": (
        lambda t: t.categories[0].update(isthing="no"),
        r"category 101 \('sky'\) has isthing 'no'; allowed: 0, 1, true or false",
    ),
    "other numbering": (
        lambda t: t.instance_categories[0].update(name="horse"),
        "instances_val2017.json: category 18 is called 'horse' here and 'dog' in the panoptic JSON",
    ),
    "color of two": (lambda t: t.categories[0].update(color=[1, 2]), r"category 101 has the color \[1, 2\]; three"),
    "color of words": (lambda t: t.categories[0].update(color="red"), "category 101 has the color 'red'; three"),
    "category id": (lambda t: t.categories[0].update(id="sky"), "category 'sky' has the id 'sky'; a whole number"),
}


@pytest.mark.parametrize(("spoil", "message"), STRUCTURE.values(), ids=STRUCTURE.keys())
def test_fault_of_an_annotation_file(tiny_coco: Any, spoil: Spoil, message: str) -> None:
    spoil(tiny_coco)
    with pytest.raises(DataError, match=message) as error:
        tiny_coco.data()
    assert str(error.value).startswith(f"{tiny_coco.root}/annotations/")


@pytest.mark.parametrize("name", ["panoptic_json", "instances_json"])
def test_missing_truncated_or_foreign_json(tiny_coco: Any, name: str) -> None:
    path: Path = getattr(tiny_coco.layout, name)
    for spoil, part in [
        (cut, "not valid JSON at line 1"),
        (lambda p: p.write_text("[1]"), r"has no list 'images' \(found: list\); a COCO (panoptic|instances) JSON"),
        (lambda p: p.write_text('{"images": []}'), "has no list 'annotations'"),
        (Path.unlink, "does not exist"),
    ]:
        tiny_coco.write()
        spoil(path)
        with pytest.raises(DataError, match=part) as error:
            CocoPanoptic(tiny_coco.layout)
        assert str(path) in str(error.value)


def test_nothing_left_by_skip_empty(tiny_coco: Any) -> None:
    tiny_coco.instances.clear()
    with pytest.raises(DataError, match=r"none of the 3 images has a non-crowd instance.*skip_empty=false"):
        tiny_coco.data(skip_empty=True)


def test_missing_folders(tiny_coco: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PANOPTIC_OCC_COCO", raising=False)
    ways = r"data\.root=.*PANOPTIC_OCC_COCO"
    with pytest.raises(DataError, match=ways):
        CocoSource().prepare()
    with pytest.raises(DataError, match=f"nowhere.*{ways}"):
        CocoSource(tmp_path / "nowhere").split("val")
    monkeypatch.setenv("PANOPTIC_OCC_COCO", str(tmp_path / "gone"))
    with pytest.raises(DataError, match=f"gone.*from PANOPTIC_OCC_COCO.*{ways}"):
        CocoSource().prepare()
    root = tiny_coco.write()
    monkeypatch.setenv("PANOPTIC_OCC_COCO", str(root))
    CocoSource().prepare()  # data to evaluate on have no training split
    (root / "train2017").mkdir()
    with pytest.raises(DataError, match=r"panoptic_train2017: the folder does not exist; .* must hold annotations/"):
        CocoSource().prepare()


def test_prepare_with_check_lists_everything_at_once(tiny_coco: Any, tmp_path: Path) -> None:
    tiny_coco.segment(2).update(category_id=181, area=1)
    tiny_coco.instance(12).update(segmentation=[])
    source = CocoSource(tiny_coco.write(), "val2017", "val2017", cache_dir=tmp_path / "cache")
    cut(tiny_coco.image_path(7))
    console = Console(file=io.StringIO(), width=40)
    with pytest.raises(DataError, match="2 errors, listed above"):
        prepare(source, check_files=True, console=console)
    category, example, image, _, mask, _ = console.file.getvalue().splitlines()  # however narrow the terminal
    assert category == "error: unknown category, 1 case; correct the category_id"
    assert example.startswith(f"    {tiny_coco.layout.panoptic_json}: image 5, id 2: category_id 181 is not among")
    assert image.startswith("error: unreadable file, 1 case; fetch it again")
    assert mask == "warning: degenerate mask, 1 case; redraw or remove it"
    assert not list((tmp_path / "cache").glob("relations*"))


def test_prepare_returns_and_shows_the_statistics(tiny_coco: Any, tmp_path: Path) -> None:
    source = CocoSource(tiny_coco.write(), "val2017", "val2017", cache_dir=tmp_path / "cache")
    console = Console(file=io.StringIO(), width=200)
    statistics = prepare(source, check_files=True, console=console)
    assert [(s.sig_ratio, s.pairs, s.decided, s.smaller_on_top) for s in statistics["val"]] == [
        (0.05, 1, 1, 1), (0.10, 1, 1, 1), (0.20, 1, 1, 1),
    ]  # fmt: skip
    shown = console.file.getvalue()
    assert all(number in shown for number in ("192,519", "157,784", "132,165"))  # published, of COCO's training split
    assert shown.count("100.0%") >= 3


def test_length_of_compressed_rle_equals_the_sum_of_its_runs() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        counts = (rng.integers(1, [2, 40, 5000][rng.integers(3)], rng.integers(1, 12))).tolist()
        height = sum(counts)
        compressed = rle_tools.frPyObjects({"size": [height, 1], "counts": counts}, height, 1)
        assert rle_length(compressed["counts"]) == height
