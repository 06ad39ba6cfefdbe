"""Every fault of the files gives one DataError that names file, value, allowed set and fix."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from helpers.tiny_cityscapes import TinyCityscapes
from panoptic_occ.common.errors import DataError
from panoptic_occ.data.cityscapes.source import CityscapesSource

HERE = ("train", "aachen/aachen_000001_000019")


def polygons(tiny: TinyCityscapes, change: Callable[[dict[str, Any]], object]) -> None:
    path = tiny.polygons(*HERE)
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def pixels(tiny: TinyCityscapes, ids: Any) -> None:
    Image.fromarray(np.asarray(ids)).save(tiny.instance_ids(*HERE))


def painted(value: int) -> np.ndarray:
    ids = np.full((24, 40), 7, dtype=np.uint16)
    ids[0, :5] = value
    return ids


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:40])


# What is spoilt, and what the error must say.
FAULTS: dict[str, tuple[Callable[[TinyCityscapes], object], list[str]]] = {
    "no images": (
        lambda t: shutil.rmtree(t.root / "leftImg8bit"),
        ["leftImg8bit/train: the folder does not exist", "leftImg8bit_trainvaltest.zip"],
    ),
    "no annotations to validate with": (
        lambda t: shutil.rmtree(t.root / "gtFine" / "val"),
        ["gtFine/val: the folder does not exist", "gtFine_trainvaltest.zip"],
    ),
    "empty folder": (
        lambda t: [shutil.rmtree(p) for p in (t.root / "leftImg8bit" / "val").iterdir()],
        ["leftImg8bit/val: holds no <city>/*_leftImg8bit.png"],
    ),
    "missing polygons": (
        lambda t: t.polygons(*HERE).unlink(),
        ["gtFine/train/aachen/aachen_000001_000019_gtFine_polygons.json: the file does not exist;", "unpack"],
    ),
    "missing ids of two images": (
        lambda t: [t.instance_ids("train", f"aachen/aachen_00000{k}_000019").unlink() for k in (0, 1)],
        ["aachen_000000_000019_gtFine_instanceIds.png: the file does not exist, nor do 1 other files"],
    ),
    "missing image": (lambda t: t.image(*HERE).unlink(), ["aachen_000001_000019_leftImg8bit.png: the file does not"]),
    "broken json": (
        lambda t: cut(t.polygons(*HERE)),
        ["aachen_000001_000019_gtFine_polygons.json: not valid JSON at line 1", "fetch or write it again"],
    ),
    "json of another kind": (
        lambda t: t.polygons(*HERE).write_text("[1, 2]"),
        ["gtFine_polygons.json: malformed", "imgHeight, imgWidth and objects", "unpack"],
    ),
    "no size": (lambda t: polygons(t, lambda c: c.pop("imgWidth")), ["malformed (KeyError: 'imgWidth')"]),
    "object without label": (
        lambda t: polygons(t, lambda c: c["objects"][1].pop("label")),
        ["malformed (KeyError: 'label')", "label and polygon"],
    ),
    "corner of three numbers": (
        lambda t: polygons(t, lambda c: c["objects"][1].update(polygon=[[1, 2, 3], [4, 5, 6]])),
        ["malformed (ValueError"],
    ),
    "unknown label": (
        lambda t: polygons(t, lambda c: c["objects"][3].update(label="carr")),
        ["object 3 has the label 'carr'", "did you mean 'car'?", "allowed: bicycle, bridge,", "wall", "'group'"],
    ),
    "one corner": (
        lambda t: polygons(t, lambda c: c["objects"][4].update(polygon=[[1, 2]])),
        ["object 4 ('car') has the polygon [[1, 2]]", "at least two corners"],
    ),
    "corner at no place": (
        lambda t: polygons(t, lambda c: c["objects"][4].update(polygon=[[1, 2], [3, float("nan")], [3, 4]])),
        ["object 4 ('car')", "finite coordinates"],
    ),
    "polygons of another size": (
        lambda t: polygons(t, lambda c: c.update(imgWidth=41)),
        ["aachen_000001_000019_leftImg8bit.png: (height, width) is (24, 40), but (24, 41) in", "must agree"],
    ),
    "ids of another size": (
        lambda t: pixels(t, painted(7)[:, 1:]),
        ["instanceIds.png: (height, width) is (24, 39), but (24, 40) in aachen_000001_000019_gtFine_polygons.json"],
    ),
    "labels instead of instances": (
        lambda t: pixels(t, painted(7).astype(np.uint8)),
        ["instanceIds.png: is an image of mode L", "16 bits"],
    ),
    "unknown id": (lambda t: pixels(t, painted(34)), ["5 pixels have the id 34", "allowed: a label id (0, 1,", "33)"]),
    "a numbered wall": (
        lambda t: pixels(t, painted(12004)),
        ["5 pixels have the id 12004", "1000 x label + number for the labels 24, 25, 26, 27, 28, 29, 30, 31, 32, 33"],
    ),
    "damaged ids": (
        lambda t: cut(t.instance_ids(*HERE)),
        ["instanceIds.png: the PNG of instance ids cannot be", "unpack"],
    ),
    "damaged image": (
        lambda t: t.image(*HERE).write_bytes(b"no image"),
        ["aachen_000001_000019_leftImg8bit.png: the image cannot be decoded", "leftImg8bit_trainvaltest.zip"],
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_named(fault: str, tmp_path: Path) -> None:
    spoil, said = FAULTS[fault]
    tiny = TinyCityscapes(tmp_path / "data")
    tiny.write()
    spoil(tiny)
    with pytest.raises(DataError) as caught:
        CityscapesSource(tiny.root, cache_dir=tmp_path / "cache", processes=1).prepare()
    text = str(caught.value)
    assert text.startswith(str(tiny.root)) and all(part in text for part in said), text
    assert not list((tmp_path / "cache").rglob("panoptic_train.json"))


def test_the_root_must_be_given_and_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PANOPTIC_OCC_CITYSCAPES", raising=False)
    ways = r"data\.root=.*PANOPTIC_OCC_CITYSCAPES"
    with pytest.raises(DataError, match=f"Cityscapes: no root folder was given.*{ways}"):
        CityscapesSource(cache_dir=tmp_path).prepare()
    with pytest.raises(DataError, match=f"gone: the root folder of Cityscapes .from data.root. .*{ways}"):
        CityscapesSource(tmp_path / "gone", cache_dir=tmp_path).prepare()
    monkeypatch.setenv("PANOPTIC_OCC_CITYSCAPES", str(tmp_path / "away"))
    with pytest.raises(DataError, match=r"away: .*from PANOPTIC_OCC_CITYSCAPES"):
        CityscapesSource(cache_dir=tmp_path).split("train")
