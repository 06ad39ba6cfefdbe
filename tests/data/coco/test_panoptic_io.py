from __future__ import annotations

import json
import multiprocessing as mp
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image

from panoptic_occ.common.errors import DataError
from panoptic_occ.data.coco.panoptic_io import (
    MAX_ID,
    PanopticResultWriter,
    check_map_names,
    predictions_in,
    read_panoptic_png,
    write_panoptic_png,
)
from panoptic_occ.structures.categories import Categories
from panoptic_occ.structures.panoptic_map import PanopticMap, Segment

CATEGORIES = Categories.from_json(
    [{"id": 7, "name": "cat", "isthing": 1}, {"id": 90, "name": "sky", "isthing": 0, "color": [1, 2, 3]}]
)
id_maps = arrays(np.int64, array_shapes(min_dims=2, max_dims=2, max_side=6), elements=st.integers(0, MAX_ID))


class TestPNG:
    @settings(max_examples=30, deadline=None)
    @given(ids=id_maps)
    def test_there_and_back_in_the_official_encoding(self, ids, tmp_path_factory):
        path = tmp_path_factory.mktemp("png") / "a.png"
        write_panoptic_png(path, ids)
        ids_read = read_panoptic_png(path)
        assert ids_read.dtype == np.int32 and ids_read.flags.writeable
        np.testing.assert_array_equal(ids_read, ids)
        with Image.open(path) as image:
            assert image.mode == "RGB"
            np.testing.assert_array_equal(np.array(image, dtype=np.uint32) @ [1, 256, 65536], ids)

    def test_published_formula(self, tmp_path):
        Image.fromarray(np.array([[[76, 61, 49], [1, 2, 3]]], dtype=np.uint8)).save(tmp_path / "a.png")
        assert read_panoptic_png(tmp_path / "a.png").tolist() == [[3226956, 1 + 512 + 3 * 65536]]

    def test_alpha_is_skipped(self, tmp_path):
        Image.fromarray(np.array([[[1, 2, 3, 77]]], dtype=np.uint8), "RGBA").save(tmp_path / "a.png")
        assert read_panoptic_png(tmp_path / "a.png").tolist() == [[1 + 512 + 3 * 65536]]

    @pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.9])
    def test_truncated(self, tmp_path, share):
        path = tmp_path / "a.png"
        write_panoptic_png(path, np.random.default_rng(0).integers(0, MAX_ID, (64, 64)))
        content = path.read_bytes()
        path.write_bytes(content[: int(share * len(content))])
        with pytest.raises(DataError, match=r"a\.png: the panoptic PNG cannot be decoded .* damaged .*write it again"):
            read_panoptic_png(path)

    @pytest.mark.parametrize("mode", ["L", "P", "1", "I;16"])
    def test_wrong_mode(self, tmp_path, mode):
        Image.new(mode, (3, 2)).save(tmp_path / "a.png")
        with pytest.raises(DataError, match=rf"a\.png: is an image of mode {mode};.*RGB"):
            read_panoptic_png(tmp_path / "a.png")

    @pytest.mark.parametrize(("ids", "said"), [([[-1, 3]], r"-1 \.\. 3"), ([[0, 2**24]], rf"0 \.\. {2**24}")])
    def test_wrong_ids_leave_nothing_behind(self, tmp_path, ids, said):
        with pytest.raises(DataError, match=rf"a\.png: segment ids lie in {said}; .*renumber"):
            write_panoptic_png(tmp_path / "a.png", np.array(ids))
        assert list(tmp_path.iterdir()) == []


def prediction(value=300):
    ids = torch.tensor([[0, 5, 5], [value, value, value]], dtype=torch.int32)
    return PanopticMap(ids, (Segment(5, 0, True, 2, score=0.75, instance=4), Segment(value, 1, False, 3)))


def write_some(folder, json_path, image_ids):
    writer = PanopticResultWriter(folder, json_path, CATEGORIES)
    for image_id in image_ids:
        writer.write(image_id, f"{image_id}.jpg", prediction())


class TestWriter:
    @pytest.fixture
    def file(self, tmp_path):
        return tmp_path / "r.json"

    @pytest.fixture
    def writer(self, tmp_path, file):
        return PanopticResultWriter(tmp_path / "r", file, CATEGORIES)

    def test_official_layout(self, tmp_path, writer, file):
        with writer:
            writer.write(12, "b/12.jpg", prediction())
            writer.write(3, "3.png", prediction(MAX_ID))
        content = json.loads(file.read_text())
        things = {"id": 5, "category_id": 7, "isthing": True, "area": 2, "iscrowd": 0, "score": 0.75}
        stuff = {"category_id": 90, "isthing": False, "area": 3, "iscrowd": 0}
        assert content["annotations"] == [
            {"image_id": 3, "file_name": "3.png", "segments_info": [things, {"id": MAX_ID, **stuff}]},
            {"image_id": 12, "file_name": "b/12.png", "segments_info": [things, {"id": 300, **stuff}]},
        ]
        assert content["categories"] == CATEGORIES.to_json()
        np.testing.assert_array_equal(read_panoptic_png(tmp_path / "r/b/12.png"), prediction().ids)

    def test_what_was_there_before_is_listed_too_but_no_foreign_image(self, tmp_path, writer, file):
        with pytest.raises(KeyboardInterrupt), writer:
            writer.write(1, "1.jpg", prediction())
            raise KeyboardInterrupt
        assert not file.exists()
        Image.new("RGB", (2, 2)).save(tmp_path / "r" / "picture.png")
        with writer:
            writer.write(2, "2.jpg", prediction())
            writer.write(2, "2.jpg", prediction(9))  # again: replaced
        annotations = json.loads(file.read_text())["annotations"]
        assert [(a["image_id"], a["segments_info"][1]["id"]) for a in annotations] == [(1, 300), (2, 9)]

    def test_a_failed_write_leaves_nothing(self, tmp_path, writer, monkeypatch):
        def broken(self, path, **kwargs):
            path.write_bytes(b"half")
            raise OSError("no space left")

        monkeypatch.setattr(Image.Image, "save", broken)
        with pytest.raises(OSError, match="no space left"):
            writer.write(1, "1.jpg", prediction())
        assert list((tmp_path / "r").iterdir()) == []

    def test_several_processes_share_a_folder(self, tmp_path, writer, file):
        context = mp.get_context("fork" if "fork" in mp.get_all_start_methods() else "spawn")
        shares = [range(7), range(5, 12)]  # 5 and 6 are written by both
        workers = [context.Process(target=write_some, args=(tmp_path / "r", file, share)) for share in shares]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
            assert worker.exitcode == 0
        writer.close()
        assert [a["image_id"] for a in json.loads(file.read_text())["annotations"]] == list(range(12))

    def test_two_images_of_one_name(self, writer):
        writer.write(1, "a.jpg", prediction())
        with pytest.raises(DataError, match=r"a\.png: already holds the prediction for image 1, and image 2"):
            writer.write(2, "a.jpeg", prediction())

    @pytest.mark.parametrize("name", ["/tmp/a.jpg", "../a.jpg", "b/../../a.jpg", "link/a.jpg", ""])
    def test_names_that_lead_elsewhere(self, tmp_path, writer, name):
        (tmp_path / "r").mkdir()
        (tmp_path / "r" / "link").symlink_to(tmp_path)
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(DataError, match=r"image 3 has the name .* leads out of"):
            writer.write(3, name, prediction())
        with pytest.raises(DataError, match=r"x\.json: image 3 has the name .* leads out of"):
            check_map_names(tmp_path / "r", {3: name}, Path("x.json"))
        assert sorted(tmp_path.rglob("*")) == before

    def test_what_macos_puts_beside_files_is_no_prediction(self, tmp_path, writer):
        (tmp_path / "r").mkdir()
        (tmp_path / "r" / "._a.png").write_bytes(b"\0\5\x16\7\0\2")
        for number, name in enumerate(("a.jpg", "._b.jpg")):
            writer.write(number, name, prediction())
        assert [path.name for path in predictions_in(tmp_path / "r")] == ["._b.png", "a.png"]

    def test_images_that_would_share_a_map(self, tmp_path):
        check_map_names(tmp_path, {1: "a.jpg", 2: "b/a.jpg"}, Path("x.json"))
        with pytest.raises(DataError, match=r"x\.json: images 1 and 2 would get one map, a\.png"):
            check_map_names(tmp_path, {1: "a.jpg", 2: "a.webp"}, Path("x.json"))

    @pytest.mark.parametrize("kind", ["PNG", "JPEG"])
    def test_a_picture_of_somebody_is_not_replaced(self, tmp_path, writer, kind):
        (tmp_path / "r").mkdir()
        Image.new("RGB", (3, 2), (9, 9, 9)).save(tmp_path / "r" / "a.png", kind)
        before = (tmp_path / "r" / "a.png").read_bytes()
        with pytest.raises(DataError, match=r"a\.png: is in the way"):
            writer.write(1, "a.jpg", prediction())
        assert (tmp_path / "r" / "a.png").read_bytes() == before and predictions_in(tmp_path / "r") == {}

    @pytest.mark.parametrize(
        "text", ["{", "[1]", "{}", '{"image_id": 1}', '{"image_id": "1", "image": {}}', "[" * 99_999]
    )
    def test_a_damaged_note_of_a_map(self, tmp_path, writer, text):
        write_panoptic_png(tmp_path / "r" / "a.png", np.zeros((2, 2), int), {"panoptic_annotation": text})
        with pytest.raises(DataError, match=r"a\.png: the prediction says nothing .*remove it and predict its image"):
            writer.close()

    def test_folder_that_is_a_file(self, tmp_path, writer):
        (tmp_path / "r").write_text("")
        with pytest.raises(DataError, match="cannot write here"):
            writer.write(1, "1.jpg", prediction())

    def test_a_cleared_folder_has_room_for_the_next_result(self, tmp_path, writer, file):
        with writer:
            writer.write(1, "a.jpg", prediction())
            writer.write(2, "b/c.jpg", prediction())
        picture = tmp_path / "r" / "picture.png"
        Image.new("RGB", (2, 2)).save(picture)
        before = sorted(tmp_path.rglob("*"))
        for names, message in (
            (["a.jpg", "picture.gif"], r"picture\.png: is in the way .*none that this writer made.*move it away"),
            (["a.jpg", "b.jpg", "a.jpeg"], r"a\.png: would be the prediction for 2 images"),
        ):
            with pytest.raises(DataError, match=message):
                writer.clear(names)
            assert sorted(tmp_path.rglob("*")) == before
        with pytest.raises(DataError, match=r"picture\.png: is in the way"):
            writer.write(1, "picture.gif", prediction())
        writer.clear(["a.jpg"])
        assert not file.exists() and list((tmp_path / "r").rglob("*.png")) == [picture]
        with writer:
            writer.write(3, "a.jpg", prediction())
        assert [entry["image_id"] for entry in json.loads(file.read_text())["annotations"]] == [3]
