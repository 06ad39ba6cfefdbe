"""The data doctor on contradictions between sound files, and what it writes."""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from panoptic_occ.common.errors import ConfigError, DataError
from panoptic_occ.data.coco.dataset import CocoPanoptic
from panoptic_occ.data.coco.doctor import check
from panoptic_occ.data.coco.doctor_report import check_report, lines_of, write_report
from panoptic_occ.data.coco.layout import Layout
from panoptic_occ.data.coco.source import CocoSource
from panoptic_occ.data.relations.preparation import prepare

CAT, DOG, SKY = 17, 18, 101
SIZE = (90, 120)


def street(root: Path, split: str = "val") -> Layout:
    """Four images with a cat and a dog each, 30 x 40 px, apart from each other and side by side."""
    layout = Layout.of(root, split)
    layout.images.mkdir(parents=True)
    layout.panoptic.mkdir(parents=True)
    boxes = {1: (CAT, 5, 10), 2: (DOG, 5, 70)}  # category, top, left
    segments, images, instances, notes = [], [], [], []
    ids = np.full(SIZE, 3, dtype=np.uint8)
    for number, (category, top, left) in boxes.items():
        ids[top : top + 30, left : left + 40] = number
        segments.append({"id": number, "category_id": category, "area": 1200, "iscrowd": 0})
    segments.append({"id": 3, "category_id": SKY, "area": 90 * 120 - 2400, "iscrowd": 0})
    for image_id in range(1, 5):
        name = f"{image_id}.png"
        Image.fromarray(np.stack([ids, 0 * ids, 0 * ids], axis=2)).save(layout.panoptic / name)
        Image.new("RGB", SIZE[::-1]).save(layout.images / name)
        images.append({"id": image_id, "file_name": name, "height": SIZE[0], "width": SIZE[1]})
        notes.append({"image_id": image_id, "file_name": name, "segments_info": segments})
        for number, (category, y, x) in boxes.items():
            outline = [x, y, x + 40, y, x + 40, y + 30, x, y + 30]
            entry = {"id": 10 * image_id + number, "image_id": image_id, "category_id": category, "iscrowd": 0}
            instances.append({**entry, "bbox": [x, y, 40, 30], "area": 1200, "segmentation": [outline]})
    names = {CAT: "cat", DOG: "dog", SKY: "sky"}
    categories = [{"id": k, "name": n, "isthing": int(k != SKY), "color": [k, k, k]} for k, n in names.items()]
    for path, entries in ((layout.panoptic_json, notes), (layout.instances_json, instances)):
        path.write_text(json.dumps({"images": images, "annotations": entries, "categories": categories}))
    return layout


def edited(file: Path, change: Callable[[Any], object]) -> None:
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def shifted(by: int) -> Callable[[Any], object]:
    def change(content: Any) -> None:
        for entry in content["annotations"]:
            entry["segmentation"] = [[v + by * (k % 2) for k, v in enumerate(p)] for p in entry["segmentation"]]

    return change


def renamed(content: Any) -> None:
    for entry in content["annotations"]:
        entry["category_id"] = {CAT: DOG, DOG: CAT}[entry["category_id"]]


def repeated(content: Any) -> None:
    for entry in content["annotations"]:
        entry["id"] %= 10


KINDS = ("nothing under it", "class at odds", "owner share", "owner share of an image")


@pytest.mark.parametrize(
    ("change", "counts", "text"),
    [
        (lambda content: None, {}, ""),
        (renamed, dict(zip(KINDS, (8, 2, 1, 4), strict=True)), r"4 of 4 instances lie on no segment .* \(4 on cat\)"),
        (shifted(40), dict(zip(KINDS, (8, 2, 1, 4), strict=True)), "instances cover 0% of the pixels"),
        (shifted(12), {"owner share": 1}, "instances cover 60% of the pixels of their segments in the"),
        (
            lambda c: c["annotations"][0].update(category_id=DOG),
            {"nothing under it": 1},
            "no dog under this instance .*: 1200 on cat",
        ),
        (repeated, {"annotation ids": 1}, "not whole numbers from 1, each once"),
    ],
)
def test_instances_against_the_map(
    tmp_path: Path, change: Callable[[Any], object], counts: dict[str, int], text: str
) -> None:
    layout = street(tmp_path)
    edited(layout.instances_json, change)
    problems = check(CocoPanoptic(layout))
    assert not any(problem.fatal for problem in problems)
    assert {kind: sum(p.kind == kind for p in problems) for kind in {p.kind for p in problems}} == counts
    assert not text or any(re.search(text, problem.problem) for problem in problems)


def malformed(content: Any) -> None:
    for entry in content["annotations"][::2]:
        entry["segmentation"] = [[1, 1]]


def test_one_malformed_polygon_hides_nothing_else(tmp_path: Path) -> None:
    layout = street(tmp_path)
    edited(layout.instances_json, malformed)
    kinds = [problem.kind for problem in check(CocoPanoptic(layout))]
    assert kinds == 4 * ["malformed polygon"]
    edited(layout.instances_json, shifted(40))
    kinds = [problem.kind for problem in check(CocoPanoptic(layout))]
    assert {kind: kinds.count(kind) for kind in kinds} == {
        "malformed polygon": 4, "nothing under it": 4, "class at odds": 1,
        "owner share": 1, "owner share of an image": 4,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("change", "text", "fix"),
    [
        (lambda v: v + 5000, "all coordinates lie outside the image of (height, width) (90, 120)", "compare the sizes"),
        (lambda v: v / 120, "coordinates lie in 0..1: they look normalised", "multiply by width and height"),
    ],
)
def test_polygons_of_another_frame(tmp_path: Path, change: Callable[[float], float], text: str, fix: str) -> None:
    layout = street(tmp_path)

    def moved(content: Any) -> None:
        for entry in content["annotations"]:
            entry["segmentation"] = [[change(v) for v in polygon] for polygon in entry["segmentation"]]

    edited(layout.instances_json, moved)
    *of_instances, last = check(CocoPanoptic(layout))
    assert len(of_instances) == 8
    assert all(problem.problem == f"{text}; the instance is skipped" for problem in of_instances)
    assert all(problem.fix.startswith(fix) for problem in of_instances)
    assert last.problem == "none of the 8 instances could be compared with the panoptic maps"


def oriented(path: Path, value: int, size: tuple[int, int]) -> None:
    """Replaces an image by one of (width, height), whose EXIF turns it."""
    exif = Image.Exif()
    exif[0x0112] = value
    Image.new("RGB", size).save(path, exif=exif)


@pytest.mark.parametrize(
    ("value", "size", "rule", "fatal", "text"),
    [
        (3, (120, 90), "pixels", False, "is 3 (turned by 180 degrees), which training, evaluation and predict do not"),
        (3, (120, 90), "exif", False, "predict follow; by its size the annotation fits both ways"),
        (6, (90, 120), "pixels", True, "fits data.source.orientation=exif"),
        (6, (90, 120), "exif", False, "fits data.source.orientation=exif"),
        (6, (120, 90), "pixels", False, "fits data.source.orientation=pixels"),
        (6, (120, 90), "exif", True, "fits data.source.orientation=pixels"),
    ],
)
def test_orientations(tmp_path: Path, value: int, size: tuple[int, int], rule: Any, fatal: bool, text: str) -> None:
    street(tmp_path)
    source = CocoSource(tmp_path, "val", "val", orientation=rule)
    data = source.split("val")
    oriented(data.layout.images / "2.png", value, size)
    *errors, named = check(data)
    assert (named.kind, named.image_id, named.fatal) == ("EXIF orientation", 2, False)
    assert text in named.problem
    if fatal:
        fits = "exif" if rule == "pixels" else "pixels"
        assert errors[0].kind == "size mismatch" and f"orientation={fits}, by which" in errors[0].fix
        with pytest.raises(DataError, match=f"its EXIF orientation is 6.*set data.source.orientation={fits}"):
            data.load(1)
    else:
        assert not errors and data.load(1).image.shape == (3, *SIZE)


def test_what_is_read_follows_the_rule(tmp_path: Path) -> None:
    street(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 255, (*SIZE, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.fromarray(pixels).save(tmp_path / "val" / "1.png", exif=exif)
    for rule, expected in (("pixels", pixels), ("exif", pixels[::-1, ::-1])):
        data = CocoSource(tmp_path, "val", "val", orientation=rule).split("val")
        assert np.array_equal(data.load(0).image.permute(1, 2, 0).numpy(), expected)
    with pytest.raises(ConfigError, match=r"data\.source\.orientation='up' is unknown; allowed: exif, pixels"):
        CocoSource(tmp_path, "val", "val", orientation="up")  # type: ignore[arg-type]


def test_swapped_sides(tmp_path: Path) -> None:
    layout = street(tmp_path)
    for file in (layout.panoptic_json, layout.instances_json):
        edited(file, lambda content: [image.update(height=120, width=90) for image in content["images"]])
    with pytest.raises(
        DataError, match=r"is .90, 120., but .120, 90. in panoptic_val.json; width and height are swapped"
    ):
        CocoPanoptic(layout).load(0)


def test_a_map_in_bgr_and_one_of_many_ids(tmp_path: Path) -> None:
    layout = street(tmp_path)
    data = CocoPanoptic(layout)
    path = layout.panoptic / "1.png"
    Image.fromarray(np.asarray(Image.open(path))[..., ::-1].copy()).save(path)
    bgr_and_more = np.asarray(Image.open(path)).copy()
    bgr_and_more[0, 0] = (9, 9, 9)
    Image.fromarray(bgr_and_more).save(layout.panoptic / "3.png")
    noise = np.random.default_rng(0).integers(0, 255, (*SIZE, 3), dtype=np.uint8)
    Image.fromarray(noise).save(layout.panoptic / "2.png")
    problems = check(data)
    maps, others = ([p for p in problems if (p.kind == "BGR map") == bgr] for bgr in (True, False))
    assert [problem.image_id for problem in maps] == [1, 3]
    assert all(problem.fatal and "in BGR order" in problem.problem for problem in maps)
    unlisted = [problem for problem in others if problem.kind == "id not in JSON"]
    assert len(unlisted) == 1 and "10" in unlisted[0].problem and "ids, of" in unlisted[0].problem


def test_categories_of_both_splits(tmp_path: Path) -> None:
    street(tmp_path, "train")
    layout = street(tmp_path)
    for file in (layout.panoptic_json, layout.instances_json):
        edited(file, lambda content: content["categories"][2].update(name="ground"))
    console, report = Console(file=io.StringIO(), width=40), tmp_path / "report.json"
    prepare(CocoSource(tmp_path, "train", "val"), report=report, console=console)
    (row,) = json.loads(report.read_text())["problems"]
    assert (row["kind"], row["id"], row["file"]) == ("categories differ", SKY, str(layout.panoptic_json))
    assert "stuff 'ground' of color" in row["problem"] and "stuff 'sky' of color" in row["problem"]


def test_the_report_has_all_and_the_list_a_few(tmp_path: Path) -> None:
    layout = street(tmp_path)
    edited(layout.instances_json, renamed)
    problems = check(CocoPanoptic(layout))
    lines = list(lines_of([replace(problems[0], kind="worse", fatal=True), *problems]))
    assert lines[0].startswith("error: worse, 1 case; ")
    start = next(k for k, line in enumerate(lines) if line.startswith("warning: nothing under it, 8 cases; compare"))
    assert lines[start + 1].startswith(f"    {layout.instances_json}: image 1, id 11: ")
    assert lines[start + 4] == "    and 5 more"
    for name in ("a.csv", "a.json"):
        check_report(tmp_path / name)
        write_report(tmp_path / name, problems)
        check_report(tmp_path / name)  # an earlier report may be replaced
    content = json.loads((tmp_path / "a.json").read_text())
    assert (content["errors"], content["warnings"]) == (0, len(problems))
    with open(tmp_path / "a.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    empty = {None: ""}
    assert rows == [{k: empty.get(v, str(v)) for k, v in row.items()} for row in content["problems"]]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a.txt", "needs the ending .json or .csv"),
        ("val.json", "is a folder"),
        ("instances.json", "is there already, and no earlier"),
        ("pipe.csv", "is a pipe or a device"),
    ],
)
def test_reports_that_are_refused(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "val.json").mkdir()
    (tmp_path / "instances.json").write_text("{}")
    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(ConfigError, match=rf"report=.*{name}: {message}"):
        check_report(tmp_path / name)


def test_panoptic_annotations_alone(tmp_path: Path) -> None:
    layout = street(tmp_path)
    layout.instances_json.unlink()
    with pytest.raises(
        DataError, match=r"instances_val.json: the file does not exist; .* data.source.inst_gt=panoptic"
    ):
        CocoSource(tmp_path, "val", "val").split("val")
    source = CocoSource(tmp_path, "val", "val", inst_gt="panoptic", cache_dir=tmp_path / "cache")
    assert prepare(source, check_files=True) == {}
    for split in ("train", "val"):
        data = source.split(split)  # type: ignore[arg-type]
        assert data.target(0).masks.area.tolist() == [1200, 1200] and check(data) == [] and data.fingerprint
