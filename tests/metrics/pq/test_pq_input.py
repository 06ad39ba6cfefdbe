"""What ``python -m panoptic_occ.pq`` says about files that are missing, broken or contradict each other."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from functools import partial

import numpy as np
import pytest

from helpers.pq_split import edited, random_split, run
from panoptic_occ.data.coco.panoptic_io import write_panoptic_png
from panoptic_occ.metrics.pq import files as pq_files


@pytest.fixture
def split(tmp_path):
    return random_split(tmp_path)


class TestBadInput:
    """One line on stderr that names file, image and fix, exit status 1."""

    def check(self, capsys, split, *words, processes=1):
        assert run(*split[2:], "--processes", processes) == 1
        captured = capsys.readouterr()
        assert captured.out == ""
        lines = captured.err.splitlines()
        assert len(lines) == 1 and lines[0].startswith("error: ")
        for word in words:
            assert word in lines[0]

    def test_missing_json(self, split, capsys):
        split[3].unlink()
        self.check(capsys, split, "result.json", "does not exist")

    def test_json_of_another_kind(self, split, capsys):
        edited(split[3], lambda c: c.pop("annotations"))
        self.check(capsys, split, "result.json", "no list 'annotations'", "categories")

    def test_truncated_json(self, split, capsys):
        split[2].write_text(split[2].read_text()[:1000])
        self.check(capsys, split, "target.json", "not valid JSON at line 1")

    def test_no_images(self, split, capsys):
        edited(split[2], lambda c: c["annotations"].clear())
        self.check(capsys, split, "target.json", "no image")

    def test_missing_predictions(self, split, capsys):
        edited(split[3], lambda c: c.update(annotations=c["annotations"][:62]))
        self.check(capsys, split, "result.json", "8 of 70 images", "63, 64, 65, 66, 67, ...")

    @pytest.mark.parametrize("processes", [1, 2])
    def test_missing_png(self, split, capsys, processes):
        (split[3].with_suffix("") / "000040.png").unlink()
        self.check(capsys, split, "000040.png", "does not exist", processes=processes)

    def test_truncated_png(self, split, capsys):
        png = split[2].with_suffix("") / "000002.png"
        png.write_bytes(png.read_bytes()[:60])
        self.check(capsys, split, "target", "000002.png", "cannot be decoded")

    def test_size_mismatch(self, split, capsys):
        write_panoptic_png(split[3].with_suffix("") / "000002.png", np.ones((4, 4), dtype=int))
        self.check(capsys, split, "000002.png (image 2)", "(4, 4)", "(15, 24)")

    @pytest.mark.parametrize(("key", "file"), [("category_id", 2), ("id", 3), ("area", 2)])
    def test_segment_lacks_a_key(self, split, capsys, key, file):
        edited(split[file], lambda c: c["annotations"][4]["segments_info"][1].pop(key))
        self.check(capsys, split, split[file].name, "image 5", f"lacks '{key}'")

    def test_instances_json_instead(self, split, capsys):
        edited(split[2], lambda c: c["annotations"][0].pop("segments_info"))
        self.check(capsys, split, "target.json", "image 1", "lacks 'segments_info'")

    @pytest.mark.parametrize("file", [2, 3])
    def test_unknown_category(self, split, capsys, file):
        edited(split[file], lambda c: c["annotations"][0]["segments_info"][0].update(category_id=51))
        self.check(capsys, split, split[file].name, "image 1", "category_id 51", "allowed: 3, 50, 8")

    def test_predicted_id_not_listed(self, split, capsys):
        removed = json.loads(split[3].read_text())["annotations"][0]["segments_info"][0]["id"]
        edited(split[3], lambda c: c["annotations"][0]["segments_info"].pop(0))
        self.check(capsys, split, "000001.png (image 1)", f"ids {removed}")

    def test_listed_id_not_predicted(self, split, capsys):
        extra = {"id": 77, "category_id": 3}
        edited(split[3], lambda c: c["annotations"][0]["segments_info"].append(extra))
        self.check(capsys, split, "000001.png (image 1)", "segments 77 have no pixel")

    def test_output_that_cannot_be_written(self, split, tmp_path, capsys):
        (tmp_path / "file").write_text("")
        assert run(*split[2:], "--json", tmp_path / "file" / "pq.json") == 1
        assert "cannot write here" in capsys.readouterr().err

    def test_misspelt_json(self, split, capsys):
        split[3].rename(split[3].with_name("results.json"))
        self.check(capsys, split, "result.json: the JSON of the prediction does not exist", "there: results.json")

    @pytest.mark.parametrize("file", [2, 3])
    def test_image_listed_twice(self, split, capsys, file):
        edited(split[file], lambda c: c["annotations"].append(c["annotations"][4]))
        self.check(capsys, split, f"{split[file]}: image 5 is listed twice")

    @pytest.mark.parametrize("file", [2, 3])
    @pytest.mark.parametrize(
        ("key", "value"),
        [("id", "abc"), ("id", None), ("id", 2**70), ("category_id", "3"), ("category_id", [3]), ("category_id", True)],
    )
    def test_segment_with_a_wrong_value(self, split, capsys, file, key, value):
        edited(split[file], lambda c: c["annotations"][4]["segments_info"][1].update({key: value}))
        self.check(capsys, split, f"{split[file]}: image 5, ", f"has the {key} {value!r}; a whole number")

    @pytest.mark.parametrize("value", [None, "12", float("nan"), float("inf")])
    def test_area_that_is_no_number(self, split, capsys, value):
        edited(split[2], lambda c: c["annotations"][4]["segments_info"][1].update(area=value))
        self.check(capsys, split, f"{split[2]}: image 5, segment ", f"has the area {value!r}; a number is needed")

    @pytest.mark.parametrize("file", [2, 3])
    @pytest.mark.parametrize(
        ("key", "kind"), [("segments_info", "a list"), ("file_name", "a name"), ("image_id", "a num")]
    )
    def test_null_in_an_annotation(self, split, capsys, file, key, kind):
        edited(split[file], lambda c: c["annotations"][4].update({key: None}))
        self.check(capsys, split, f"{split[file]}: ", f"has the {key} None; {kind}")

    def test_a_segment_that_is_null(self, split, capsys):
        edited(split[3], lambda c: c["annotations"][4]["segments_info"].append(None))
        self.check(capsys, split, f"{split[3]}: image 5, a segment lacks 'id' (found: None)")

    @pytest.mark.parametrize(("key", "value"), [("id", "cat"), ("color", [1, 2]), ("color", [1, 2, 256])])
    def test_category_with_a_wrong_value(self, split, capsys, key, value):
        edited(split[2], lambda c: c["categories"][0].update({key: value}))
        self.check(capsys, split, f"{split[2]}: category ", f"has the {key} {value!r}; ")

    def test_json_into_a_folder_is_refused_before_the_work(self, split, tmp_path, capsys, monkeypatch):
        monkeypatch.setattr(pq_files, "_load", None)
        assert run(*split[2:], "--json", tmp_path) == 1
        assert f"{tmp_path}: --json is a folder; name a file in it" in capsys.readouterr().err

    def test_the_table_comes_before_the_output_that_cannot_be_written(self, split, tmp_path, capsys):
        (tmp_path / "file").write_text("")
        assert run(*split[2:], "--json", tmp_path / "file" / "pq.json") == 1
        assert "Things" in capsys.readouterr().out


INTERRUPTED = """
import os, signal, sys, time
from panoptic_occ import pq

def interrupt(done, total):
    time.sleep(0.5)
    os.killpg(0, signal.SIGINT)

count = pq.panoptic_quality_of_files
pq.panoptic_quality_of_files = lambda *arguments: count(*arguments[:-1], interrupt)
sys.exit(pq.main())
"""


@pytest.mark.parametrize("processes", [1, 3])
def test_interruption_is_one_line(split, processes):
    """Ctrl-C reaches all processes of a terminal's group, here while the workers start."""
    files = ["--gt_json_file", split[2], "--pred_json_file", split[3], "--processes", str(processes)]
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, *files],
        capture_output=True,
        text=True,
        check=False,
        start_new_session=True,
        timeout=120,
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # ignored in a shell's background jobs
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")
