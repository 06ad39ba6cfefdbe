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
from panoptic_occ.data.coco.doctor import check, problems_table
from panoptic_occ.data.coco.reader import _rle_length
from panoptic_occ.data.coco.source import CocoSource, find_root
from panoptic_occ.data.relations.preparation import prepare


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def resave(path: Path, size: tuple[int, int]) -> None:
    Image.new("RGB", size).save(path)


def paint(tiny: Any, number: int) -> None:
    tiny.ids[5][10, 0] = number


def bad_segmentation(**values: Any) -> Callable[[Any], None]:
    return lambda tiny: tiny.instance(12).update(values)


# What goes wrong before the files are written, after it, and what the error must say.
FATAL: dict[str, tuple[Callable[[Any], Any], list[str]]] = {
    "unknown category of a segment": (
        lambda t: t.segment(2).update(category_id=181),
        ["panoptic_val2017.json: image 5, id 2", "category_id 181", "allowed: 101, 17, 18", "did you mean '18'"],
    ),
    "unknown category of an instance": (
        lambda t: t.instance(12).update(category_id=3),
        ["instances_val2017.json: image 5, id 12", "category_id 3", "allowed: 101, 17, 18"],
    ),
    "stuff instance": (
        lambda t: t.instance(12).update(category_id=101),
        ["image 5, id 12", "category_id 101 ('sky') is stuff", "instances must be things"],
    ),
    "id in the PNG only": (
        lambda t: paint(t, 77),
        ["0005.png: image 5, id 77", "1 pixels", "listed: 1, 2, 300, 70000", "add the segment"],
    ),
    "id in the JSON only": (
        lambda t: t.panoptic[0]["segments_info"].append({"id": 6, "category_id": 17, "area": 3, "iscrowd": 0}),
        ["panoptic_val2017.json: image 5, id 6", "no pixel in 0005.png", "0, 1, 2, 300, 70000", "remove the segment"],
    ),
    "segment id 0": (
        lambda t: t.panoptic[0]["segments_info"].append({"id": 0, "category_id": 17, "area": 3, "iscrowd": 0}),
        ["image 5, id 0", "1 .. 16777215"],
    ),
    "segment id twice": (
        lambda t: t.panoptic[0]["segments_info"].append({"id": 2, "category_id": 17, "area": 3, "iscrowd": 0}),
        ["image 5, id 2", "two segments have this id"],
    ),
    "size of the instances JSON": (
        lambda t: t.instance_images[0].update(width=17),
        ["instances_val2017.json: image 5", "(12, 17)", "(12, 16)", "must agree"],
    ),
    "image not in the instances JSON": (
        lambda t: (t.instance_images.pop(1), t.ids.update({9: np.full((10, 10), 4)})),
        ["instances_val2017.json: image 9", "not in the instances JSON"],
    ),
    "RLE of another size": (
        bad_segmentation(segmentation={"size": [16, 12], "counts": [192]}),
        ["image 5, id 12", "RLE of size [16, 12]", "(12, 16)"],
    ),
    "RLE of too few pixels": (
        bad_segmentation(segmentation={"size": [12, 16], "counts": [3, 2]}),
        ["image 5, id 12", "RLE of 5 pixels in an image of 192"],
    ),
    "RLE of too many pixels": (
        bad_segmentation(segmentation={"size": [12, 16], "counts": [3, 200]}),
        ["image 5, id 12", "RLE of 203 pixels"],
    ),
    "RLE that is cut off": (
        lambda t: t.instance(12)["segmentation"].update(counts=t.instance(12)["segmentation"]["counts"][:-3]),
        ["image 5, id 12", "malformed"],
    ),
    "RLE of foreign characters": (
        bad_segmentation(segmentation={"size": [12, 16], "counts": "~~ ~"}),
        ["image 5, id 12", "characters that do not belong there"],
    ),
    "RLE without counts": (bad_segmentation(segmentation={"size": [12, 16]}), ["image 5, id 12", "counts"]),
    "no segmentation": (bad_segmentation(segmentation=None), ["image 5, id 12", "malformed"]),
    "polygon of odd length": (
        bad_segmentation(segmentation=[[1, 1, 5, 1, 5, 5, 2]]),
        ["image 5, id 12", "odd number of coordinates"],
    ),
    "polygon with a NaN": (
        bad_segmentation(segmentation=[[1, 1, 5, 1, 5, float("nan")]]),
        ["image 5, id 12", "not finite"],
    ),
}

FATAL_FILES: dict[str, tuple[Callable[[Any], Any], list[str]]] = {
    "missing image": (lambda t: t.image_path(5).unlink(), ["0005.jpg: image 5", "does not exist", "put the images"]),
    "missing PNG": (lambda t: t.png_path(5).unlink(), ["0005.png: image 5", "does not exist", "check the folder"]),
    "truncated image": (lambda t: cut(t.image_path(5)), ["0005.jpg: image 5", "cannot be decoded", "fetch it again"]),
    "truncated PNG": (lambda t: cut(t.png_path(5)), ["0005.png: image 5", "cannot be decoded", "fetch"]),
    "text as image": (lambda t: t.image_path(5).write_text("no image"), ["0005.jpg: image 5", "cannot be decoded"]),
    "gray PNG": (lambda t: Image.new("L", (16, 12)).save(t.png_path(5)), ["0005.png: image 5", "mode L"]),
    "size of the image": (lambda t: resave(t.image_path(5), (15, 12)), ["0005.jpg: image 5", "(12, 15)", "(12, 16)"]),
    "size of the PNG": (lambda t: resave(t.png_path(5), (16, 13)), ["0005.png: image 5", "(13, 16)", "(12, 16)"]),
}


def assert_one_error(tiny: Any, parts: list[str]) -> None:
    data = CocoPanoptic.from_root(tiny.root, tiny.split)
    with pytest.raises(DataError) as error:
        for index in range(len(data)):
            data.load(index)
    message = str(error.value)
    for part in parts:
        assert part in message
    fatal = [str(problem) for problem in check(data) if problem.fatal]
    assert message in fatal  # the data doctor says the same


@pytest.mark.parametrize(("spoil", "parts"), FATAL.values(), ids=FATAL.keys())
def test_fault_of_an_annotation(tiny_coco: Any, spoil: Callable[[Any], Any], parts: list[str]) -> None:
    spoil(tiny_coco)
    tiny_coco.write()
    assert_one_error(tiny_coco, parts)


@pytest.mark.parametrize(("spoil", "parts"), FATAL_FILES.values(), ids=FATAL_FILES.keys())
def test_fault_of_a_file(tiny_coco: Any, spoil: Callable[[Any], Any], parts: list[str]) -> None:
    tiny_coco.write()
    spoil(tiny_coco)
    assert_one_error(tiny_coco, parts)


TOLERATED: dict[str, tuple[Callable[[Any], Any], str, int, list[int]]] = {
    "wrong area": (lambda t: t.segment(2).update(area=33), "wrong area", 2, [11, 12]),
    "polygon of a point": (bad_segmentation(segmentation=[[4, 4, 4, 4, 4, 4]]), "degenerate mask", 12, [11]),
    "polygon of two corners": (bad_segmentation(segmentation=[[1, 1, 5, 5]]), "degenerate mask", 12, [11]),
    "no polygon": (bad_segmentation(segmentation=[]), "degenerate mask", 12, [11]),
    "polygon outside": (bad_segmentation(segmentation=[[20, 1, 25, 1, 25, 5]]), "degenerate mask", 12, [11]),
    "empty RLE": (bad_segmentation(segmentation={"size": [12, 16], "counts": [192]}), "degenerate mask", 12, [11]),
    "box outside": (bad_segmentation(bbox=[12, 6, 8, 4]), "box outside the image", 12, [11, 12]),
}


@pytest.mark.parametrize(("spoil", "kind", "number", "kept"), TOLERATED.values(), ids=TOLERATED.keys())
def test_a_tolerated_fault_is_counted(
    tiny_coco: Any, caplog: pytest.LogCaptureFixture, spoil: Any, kind: str, number: int, kept: list[int]
) -> None:
    spoil(tiny_coco)
    data = CocoPanoptic.from_root(tiny_coco.write(), tiny_coco.split)
    target = data.target(0)
    data.target(0)
    assert data.warnings == {kind: 2}
    shown = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(shown) == 1  # the first one, the others are counted
    assert f"image 5, id {number}" in caplog.text
    assert target.instance_ids.tolist() == kept
    assert len(target.masks) == len(target.boxes) == len(target.relation) == len(kept)
    (problem,) = check(data)
    assert (problem.kind, problem.image_id, problem.id, problem.fatal) == (kind, 5, number, False)
    if kind == "wrong area":
        assert {s.id: s.area for s in target.panoptic.segments}[2] == 33  # the JSON is trusted, as in the official tool
        assert "area 33 in the JSON, 32 pixels" in caplog.text


STRUCTURE: dict[str, tuple[Callable[[Any], Any], list[str]]] = {
    "no image": (lambda t: (t.images.clear(), t.panoptic.clear()), ["panoptic_val2017.json", "holds no image"]),
    "no category": (lambda t: t.categories.clear(), ["panoptic_val2017.json", "categories is empty"]),
    "image id twice": (lambda t: t.images.append(t.images[0]), ["panoptic_val2017.json", "image id 5 appears twice"]),
    "two panoptic annotations": (lambda t: t.panoptic.append(t.panoptic[0]), ["image 5 has two panoptic annotations"]),
    "image without annotation": (lambda t: t.panoptic.pop(), ["image 7 ('0007.jpg') has no panoptic annotation"]),
    "annotation without image": (lambda t: t.images.pop(), ["panoptic_val2017.json", "'0007.png' belongs to image 7"]),
    "instance of no image": (
        lambda t: t.instance(12).update(image_id=99),
        ["instances_val2017.json: annotation 12 belongs to image 99"],
    ),
    "key missing": (lambda t: t.segment(2).pop("area"), ["a segment of image 5 (id 2) lacks the key 'area'"]),
    "word as id": (lambda t: t.instance(12).update(category_id="dog"), ["an annotation is malformed", "'dog'"]),
    "other numbering": (
        lambda t: t.instance_categories[0].update(name="horse"),
        ["instances_val2017.json: category 18 is called 'horse' here and 'dog' in the panoptic JSON"],
    ),
}


@pytest.mark.parametrize(("spoil", "parts"), STRUCTURE.values(), ids=STRUCTURE.keys())
def test_fault_of_an_annotation_file(tiny_coco: Any, spoil: Callable[[Any], Any], parts: list[str]) -> None:
    spoil(tiny_coco)
    with pytest.raises(DataError) as error:
        CocoPanoptic.from_root(tiny_coco.write(), tiny_coco.split)
    for part in parts:
        assert part in str(error.value)


@pytest.mark.parametrize("name", ["panoptic_json", "instances_json"])
def test_missing_truncated_or_foreign_json(tiny_coco: Any, name: str) -> None:
    path: Path = getattr(tiny_coco, name)
    for spoil, part in [
        (cut, "not valid JSON at line 1"),
        (lambda p: p.write_text("[1]"), "holds a list, not an object"),
        (lambda p: p.write_text('{"images": []}'), "has no list 'annotations'"),
        (Path.unlink, "does not exist"),
    ]:
        tiny_coco.write()
        spoil(path)
        with pytest.raises(DataError, match=part) as error:
            CocoPanoptic.from_root(tiny_coco.root, tiny_coco.split)
        assert str(path) in str(error.value)


def test_nothing_left_by_skip_empty(tiny_coco: Any) -> None:
    tiny_coco.instances.clear()
    with pytest.raises(DataError, match=r"none of the 3 images has a non-crowd instance.*skip_empty=false"):
        CocoPanoptic.from_root(tiny_coco.write(), "val2017", skip_empty=True)


def test_missing_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PANOPTIC_OCC_COCO", raising=False)
    ways = r"data\.root=.*PANOPTIC_OCC_COCO"
    with pytest.raises(DataError, match=ways):
        CocoSource().prepare()
    with pytest.raises(DataError, match=f"nowhere.*{ways}"):
        CocoSource(tmp_path / "nowhere").split("val")
    monkeypatch.setenv("PANOPTIC_OCC_COCO", str(tmp_path / "gone"))
    with pytest.raises(DataError, match=f"gone.*from PANOPTIC_OCC_COCO.*{ways}"):
        CocoSource().prepare()
    monkeypatch.setenv("PANOPTIC_OCC_COCO", str(tmp_path))
    assert find_root(None) == tmp_path


def test_missing_folder_below_the_root(tiny_coco: Any) -> None:
    source = CocoSource(tiny_coco.write())
    with pytest.raises(DataError, match=r"panoptic_train2017: the folder does not exist; .* must hold annotations/"):
        source.prepare()


def test_unknown_split(tiny_coco: Any) -> None:
    with pytest.raises(DataError, match=r"split 'valid' is unknown; did you mean 'val'\? allowed: train, val"):
        CocoSource(tiny_coco.write()).split("valid")  # type: ignore[arg-type]


def test_prepare_with_check_lists_everything_at_once(tiny_coco: Any, tmp_path: Path) -> None:
    tiny_coco.segment(2).update(category_id=181, area=1)
    tiny_coco.instance(12).update(segmentation=[])
    source = CocoSource(tiny_coco.write(), "val2017", "val2017", cache_dir=tmp_path / "cache")
    cut(tiny_coco.image_path(7))
    console = Console(file=io.StringIO(), width=400)
    with pytest.raises(DataError, match="2 errors, listed above"):
        prepare(source, ["val"], check_files=True, console=console)
    shown = console.file.getvalue()
    for part in ("category_id 181", "0007.jpg", "covers no pixel", "warning", "error"):
        assert part in shown
    assert not (tmp_path / "cache").exists()


def test_prepare_returns_and_shows_the_statistics(tiny_coco: Any, tmp_path: Path) -> None:
    source = CocoSource(tiny_coco.write(), "val2017", "val2017", cache_dir=tmp_path / "cache")
    console = Console(file=io.StringIO(), width=200)
    found = prepare(source, check_files=True, console=console)
    assert [(s.sig_ratio, s.pairs, s.decided, s.smaller_on_top) for s in found["val"]] == [
        (0.05, 1, 1, 1), (0.10, 1, 1, 1), (0.20, 1, 1, 1),
    ]  # fmt: skip
    assert "192,519" in console.file.getvalue()


def test_table_puts_errors_first(tiny_coco: Any) -> None:
    tiny_coco.segment(1).update(area=1)
    tiny_coco.instance(14).update(category_id=3)
    problems = check(CocoPanoptic.from_root(tiny_coco.write(), "val2017"))
    table = problems_table(problems, "tiny")
    assert list(table.columns[0].cells) == ["error", "warning"]


def test_length_of_compressed_rle_equals_the_sum_of_its_runs() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        runs = (rng.integers(1, [2, 40, 5000][rng.integers(3)], rng.integers(1, 12))).tolist()
        height = sum(runs)
        compressed = rle_tools.frPyObjects({"size": [height, 1], "counts": runs}, height, 1)
        assert _rle_length(compressed["counts"]) == height
