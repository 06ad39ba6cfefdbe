"""What predict refuses before it reads an image, and what it leaves in the output folder."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from helpers.tiny_runs import QUIET, read
from panoptic_occ.commands import predicting
from panoptic_occ.common.errors import ConfigError, DataError
from panoptic_occ.common.faults import clear_message
from panoptic_occ.evaluation import predictor
from panoptic_occ.runs.build import plan_of
from panoptic_occ.testing import toy_categories

Predict = Callable[..., Path]


@pytest.fixture
def predict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Predict:
    """``predict`` from the folder ``in`` to ``out``, with further words, by a network that nobody trained."""
    monkeypatch.setattr(predictor, "run_categories", lambda folder: toy_categories())
    monkeypatch.setattr(predictor, "load_base", lambda model, base: None)
    (tmp_path / "in").mkdir()
    words = ["experiment=tiny", *QUIET, "compare=[]", f"runs_dir={tmp_path}/runs"]

    def run(*more: str, occlusion: str = "area") -> Path:
        places = [f"input={tmp_path}/in", f"output={tmp_path}/out"]
        return predicting.predict(plan_of([*words, f"occlusion={occlusion}", *places, *more]))

    return run


def paint(folder: Path, *names: str) -> None:
    for name in names:
        Image.new("RGB", (40, 30), (100, 50, 50)).save(folder / name)


def listed(out: Path) -> list[tuple[int, str]]:
    return [(a["image_id"], a["file_name"]) for a in read(out / "panoptic.json")["annotations"]]


def results_of(*images: str) -> set[str]:
    return {"panoptic.json", *(f"{kind}/{image}.png" for kind in ("panoptic", "overlays") for image in images)}


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize(
    ("occlusion", "need"),
    [
        ("class_prior", "counts the pairs of a training .*occlusion=area"),
        ("ground_truth", "reads annotations, .*choose another"),
    ],
)
def test_orders_that_need_more_than_an_image(predict, tmp_path, occlusion, need):
    (tmp_path / "in" / "image.png").touch()
    with pytest.raises(ConfigError, match=f"occlusion={occlusion} {need}"):
        predict(occlusion=occlusion)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "error", "message"),
    [
        (["input=nowhere"], DataError, "does not exist"),
        ([], DataError, "no image"),
        (["input=null"], ConfigError, "'input' needs a value"),
    ],
)
def test_an_input_without_images(predict, words, error, message):
    with pytest.raises(error, match=message):
        predict(*words)


def test_one_bad_image_does_not_keep_the_others_from_being_written(predict, tmp_path):
    paint(tmp_path / "in", "a.png", "c.png")
    (tmp_path / "in" / "b.jpg").write_bytes(b"nothing")
    (tmp_path / "in" / "d.png").write_bytes((tmp_path / "in" / "a.png").read_bytes()[:60])
    with pytest.raises(DataError, match=r"2 of 4 images.* other 2 are in .*out") as error:
        predict()
    assert all(f"{tmp_path}/in/{name}: the image cannot be decoded" in str(error.value) for name in ("b.jpg", "d.png"))
    assert listed(tmp_path / "out") == [(1, "a.png"), (3, "c.png")]
    assert set(content(tmp_path / "out")) == results_of("a", "c")


def test_only_bad_images_leave_nothing_and_replace_nothing(predict, tmp_path):
    paint(tmp_path / "in", "a.png")
    before = content(predict())
    (tmp_path / "in" / "a.png").write_bytes(b"nothing")
    with pytest.raises(DataError, match="1 of 1 images cannot be read; nothing was written"):
        predict("force=true")
    assert content(tmp_path / "out") == before
    with pytest.raises(DataError, match="nothing was written"):
        predict(f"output={tmp_path}/new")
    assert not (tmp_path / "new").exists()


def test_a_used_folder_is_refused_and_replaced_by_force(predict, tmp_path):
    paint(tmp_path / "in", "a.png", "b.png")
    before = content(predict())
    (tmp_path / "in" / "a.png").unlink()
    paint(tmp_path / "in", "c.png")
    with pytest.raises(ConfigError, match=r"out: holds 2 maps of an earlier predict; .*output=.*force=true"):
        predict()
    assert content(tmp_path / "out") == before
    mine = (tmp_path / "in" / "c.png").read_bytes()
    foreign = dict.fromkeys(("notes.txt", "panoptic/photo.png", "overlays/mine.png"), mine)
    for name in foreign:
        (tmp_path / "out" / name).write_bytes(mine)
    predict("force=true")
    after = content(tmp_path / "out")
    assert listed(tmp_path / "out") == [(1, "b.png"), (2, "c.png")]
    assert set(after) == results_of("b", "c") | set(foreign) and foreign.items() <= after.items()


@pytest.mark.parametrize("name", ["panoptic.json", "panoptic/a.png", "overlays/a.png"])
@pytest.mark.parametrize("force", ["false", "true"])
def test_foreign_files_are_never_overwritten(predict, tmp_path, name, force):
    paint(tmp_path / "in", "a.png")
    foreign = tmp_path / "out" / name
    foreign.parent.mkdir(parents=True)
    shutil.copy(tmp_path / "in" / "a.png", foreign)
    before = content(tmp_path / "out")
    with pytest.raises(ConfigError, match=f"{name}: is in the way"):
        predict(f"force={force}")
    assert content(tmp_path / "out") == before


def test_maps_of_an_evaluation_and_own_input_are_not_replaced(predict, tmp_path):
    paint(tmp_path / "in", "a.png")
    out = predict()
    before = content(out)
    with pytest.raises(ConfigError, match=r"overlays/a\.png: is in the way"):
        predict("force=true", f"input={out}/overlays")
    assert content(out) == before
    (out / "overlays" / "a.png").unlink()  # maps without overlays are those of another command
    with pytest.raises(ConfigError, match=r"panoptic\.json: is in the way"):
        predict("force=true")


def test_an_interruption_leaves_a_list_of_what_was_written(predict, tmp_path, monkeypatch):
    paint(tmp_path / "in", "a.png", "b.png", "c.png")
    pixels_of = predicting.pixels_of

    def interrupted(file, orientation):
        if file.name == "c.png":
            raise KeyboardInterrupt
        return pixels_of(file, orientation)

    monkeypatch.setattr(predicting, "pixels_of", interrupted)
    with pytest.raises(KeyboardInterrupt):
        predict()
    assert listed(tmp_path / "out") == [(1, "a.png"), (2, "b.png")]


def test_a_killed_predict_is_replaced_by_force(predict, tmp_path):
    paint(tmp_path / "in", "a.png")
    whole = content(predict())
    (tmp_path / "out" / "panoptic.json").unlink()
    with pytest.raises(ConfigError, match="holds 1 maps of an earlier predict"):
        predict()
    assert content(predict("force=true")).keys() == whole.keys()


def test_every_image_of_a_folder_is_taken(predict, tmp_path, caplog):
    paint(tmp_path / "in", "a.jpg", "b.tif", "c.bmp", "d.TIFF", "e.webp")
    shutil.copy(tmp_path / "in" / "a.jpg", tmp_path / "in" / "f.jfif")
    for name in ("._a.jpg", "notes.txt", "f.eps", "g.HEIC"):  # the first is what macOS leaves on foreign disks
        (tmp_path / "in" / name).write_bytes(b"\0\5\x16\7")
    assert listed(predict()) == [(number, f"{name}.png") for number, name in enumerate("abcdef", start=1)]
    assert re.search(r"in: 2 images are left out \(f\.eps, g\.HEIC\); allowed endings: \.jpg, ", caplog.text)


def test_a_link_in_the_output_that_leads_elsewhere(predict, tmp_path):
    paint(tmp_path / "in", "a.png")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "overlays").symlink_to(tmp_path / "in")
    listing = {"images": [{"id": 1, "file_name": "a.png"}]}
    (tmp_path / "x.json").write_text(json.dumps(listing))
    before = content(tmp_path / "in")
    for words in ((), (f"images={tmp_path}/x.json",)):
        with pytest.raises((ConfigError, DataError)):
            predict(*words)
    assert content(tmp_path / "in") == before


@pytest.mark.parametrize("name", ["../a.png", "/tmp/a.png", "x" * 256 + ".png"])
def test_a_list_of_images_that_leads_elsewhere(predict, tmp_path, name):
    paint(tmp_path / "in", "a.png")
    (tmp_path / "x.json").write_text(json.dumps({"images": [{"id": 1, "file_name": name}]}))
    with pytest.raises((DataError, OSError)) as error:
        predict(f"images={tmp_path}/x.json")
    assert clear_message(error.value) is not None and not (tmp_path / "out").exists()


def test_two_images_of_one_name(predict, tmp_path):
    paint(tmp_path / "in", "a.jpg", "a.png")
    with pytest.raises(DataError, match=r"a\.png: its result would overwrite that of .*a\.jpg; rename one of them"):
        predict()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "size", "said"),
    [
        ([], (30, 40), False),  # of scenes, whose files have no EXIF
        (["data=coco", "data.source.orientation=exif"], (30, 40), False),
        (["data=coco"], (40, 30), True),
    ],
)
def test_read_as_the_images_of_the_run(predict, tmp_path, caplog, words, size, said):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 30)).save(tmp_path / "in" / "a.jpg", exif=exif)
    assert Image.open(predict(*words) / "overlays" / "a.png").size == size
    assert ("a.jpg: has an EXIF orientation, as have 0 other images" in caplog.text) == said


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ([(1, "a.png"), (1, "b.png")], r"the images 'a\.png' and 'b\.png' have one id, 1; give each its own"),
        ([(1, "a.png"), (2, "C:\\data\\val\\b.png")], r"images\[1\] .* 'C:.*, an absolute path of Windows"),
        ([(1, "C:/data/val/b.png")], r"images\[0\] .*, an absolute path of Windows; write names relative"),
    ],
)
def test_a_list_that_cannot_be_followed(tmp_path, entries, words):
    paint(tmp_path, "a.png", "b.png")
    listing = tmp_path / "images.json"
    listing.write_text(json.dumps({"images": [{"id": k, "file_name": name} for k, name in entries]}))
    with pytest.raises(DataError, match=words):
        predicting.listed_images(listing, tmp_path)


def test_a_list_with_ids_as_text_and_backslashes(tmp_path):
    (tmp_path / "sub").mkdir()
    paint(tmp_path / "sub", "a.png")
    listing = tmp_path / "images.json"
    listing.write_text(json.dumps({"images": [{"id": "007", "file_name": "sub\\a.png"}]}))
    (photograph,) = predicting.listed_images(listing, tmp_path)
    assert (photograph.image_id, photograph.file_name) == (7, "sub/a.png")
    listing.write_text(json.dumps({"images": [{"id": "seven", "file_name": "sub/a.png"}]}))
    with pytest.raises(DataError, match="a whole number as id"):
        predicting.listed_images(listing, tmp_path)
