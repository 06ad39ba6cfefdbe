"""What ``python -m panoptic_occ.pq`` says about files that are missing, broken or contradict each other."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from functools import partial

import numpy as np
import pytest

from helpers.pq_split import edited, run
from panoptic_occ.data.coco.panoptic_io import read_panoptic_png, write_panoptic_png
from panoptic_occ.metrics.pq import files as pq_files

SIDES = {"target": 2, "result": 3}  # their places in a split
GONE = object()
IMAGE, SEGMENT = "annotations.4.", "annotations.4.segments_info.1."
FAULTS = [  # file, place in it, what is put there, what is said of it
    ("result", "annotations", GONE, r"has no list 'annotations' \(found: \['categories'\]\)"),
    ("target", "annotations", [], "the data set holds no image"),
    ("target", "annotations.0.segments_info", GONE, "image 1 lacks 'segments_info'"),
    ("target", SEGMENT + "category_id", GONE, "image 5, segment .* lacks 'category_id'"),
    ("target", SEGMENT + "area", GONE, "image 5, segment .* lacks 'area'"),
    ("result", SEGMENT + "id", GONE, "image 5, a segment lacks 'id'"),
    ("result", SEGMENT[:-1], None, r"image 5, a segment lacks 'id' \(found: None\)"),
    ("target", SEGMENT + "iscrowd", "maybe", "image 5, segment .* has the iscrowd 'maybe'; 0, 1, true or false is"),
    ("target", "categories.0.isthing", "no", r"category 3 \('cat'\) has isthing 'no'; allowed: 0, 1, true or false"),
    ("target", "categories.0.id", "cat", "category .* has the id 'cat'; "),
    ("target", "categories.0.color", [1, 2], r"category 3 has the color \[1, 2\]; "),
    ("target", "categories.0.color", [1, 2, 256], r"category 3 has the color \[1, 2, 256\]; "),
    *(
        ("target", SEGMENT + "area", value, f"image 5, segment .* has the area {value!r}; a number is needed")
        for value in (None, "12", float("nan"), float("inf"))
    ),
]
for side in SIDES:
    FAULTS += [
        (side, "annotations.5.image_id", 5, "image 5 is listed twice"),
        (side, SEGMENT + "category_id", 51, "image 5, .* category_id 51 .* allowed: 3, 50, 8"),
        (side, IMAGE + "segments_info", None, "image 5 has the segments_info None; a list"),
        (side, IMAGE + "file_name", None, "image 5 has the file_name None; a name"),
        (side, IMAGE + "image_id", None, "an annotation has the image_id None; a number or a name"),
        *(
            (side, SEGMENT + key, value, f"image 5, .* has the {key} {re.escape(repr(value))}; a whole number")
            for key, values in {"id": ("abc", None, 2**70), "category_id": ("three", [3], True)}.items()
            for value in values
        ),
    ]


def said(capsys, split, *more):
    """The one line on stderr about a split that cannot be scored."""
    assert run(*split[2:], *more) == 1
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1 and captured.err.startswith("error: ")
    return captured.err


@pytest.mark.parametrize(("side", "place", "value", "message"), FAULTS)
def test_a_json_that_is_wrong(split, capsys, side, place, value, message):
    def change(content):
        *path, last = (int(key) if key.isdigit() else key for key in place.split("."))
        for key in path:
            content = content[key]
        if value is GONE:
            content.pop(last)
        else:
            content[last] = value

    file = split[SIDES[side]]
    edited(file, change)
    assert re.search(rf"^error: {file}: {message}", said(capsys, split, "--processes", 1))


@pytest.mark.parametrize(
    ("side", "name", "damage", "message"),
    [
        ("result", ".json", lambda file: file.unlink(), "the JSON of the prediction does not exist; "),
        ("result", ".json", lambda file: file.rename(file.with_name("results.json")), "similar names .*: results.json"),
        ("target", ".json", lambda file: file.write_text(file.read_text()[:1000]), "not valid JSON at line 1"),
        ("result", "/000040.png", lambda file: file.unlink(), "does not exist"),
        ("target", "/000002.png", lambda file: file.write_bytes(file.read_bytes()[:60]), "cannot be decoded"),
        ("result", "/000002.png", lambda file: write_panoptic_png(file, np.ones((4, 4), int)), r"\(4, 4\).*\(15, 24\)"),
    ],
)
@pytest.mark.parametrize("processes", [1, 2])
def test_a_file_that_is_missing_or_damaged(split, tmp_path, capsys, side, name, damage, message, processes):
    file = tmp_path / f"{side}{name}"
    damage(file)
    assert re.search(f"{file}.*{message}", said(capsys, split, "--processes", processes))


def test_maps_that_contradict_their_json(split, capsys):
    segments = json.loads(split[3].read_text())["annotations"][0]["segments_info"]
    edited(split[3], lambda c: c["annotations"][0]["segments_info"].pop(0))
    assert re.search(rf"000001.png \(image 1\).*ids {segments[0]['id']}", said(capsys, split))
    edited(split[3], lambda c: c["annotations"][0].update(segments_info=[*segments, {"id": 77, "category_id": 3}]))
    assert re.search(r"000001.png \(image 1\).*segments 77 have no pixel", said(capsys, split))


def test_a_repeated_id_in_the_ground_truth_is_named(split, capsys):
    assert run(*split[2:]) == 0
    plain = capsys.readouterr()
    segments = json.loads(split[2].read_text())["annotations"][4]["segments_info"]
    edited(split[2], lambda c: c["annotations"][4]["segments_info"].insert(0, segments[-1]))
    assert run(*split[2:]) == 0
    captured = capsys.readouterr()
    assert (
        f"of 1 images lists an id more than once (first: image 5, segment {segments[-1]['id']}); the " in captured.err
    )
    assert captured.out == plain.out and "more than once" not in plain.err


def test_a_map_in_the_order_of_bgr(split, capsys):
    file = split[3].with_suffix("") / "000001.png"
    write_panoptic_png(file, read_panoptic_png(file) * 256**2)
    assert "red and blue are swapped in it: write it in the order of RGB" in said(capsys, split)
    write_panoptic_png(file, read_panoptic_png(file) // 256**2)
    file = split[2].with_suffix("") / "000001.png"
    write_panoptic_png(file, read_panoptic_png(file) * 256**2)
    assert run(*split[2:]) == 0
    assert "0 pixels in the PNG; red and blue are swapped in it); PQ trusts" in capsys.readouterr().err


def test_an_output_that_cannot_be_written(split, tmp_path, capsys, monkeypatch):
    """The table comes first; a folder is refused before the work."""
    (tmp_path / "file").write_text("")
    assert run(*split[2:], "--json", tmp_path / "file" / "pq.json") == 1
    captured = capsys.readouterr()
    assert "cannot write here" in captured.err and "Things" in captured.out
    monkeypatch.setattr(pq_files, "CocoJson", None)
    assert f"{tmp_path}: --json is a folder; name a file in it" in said(capsys, split, "--json", tmp_path)


@pytest.mark.parametrize("victim", ["gt_json", "prediction_json", "png", "text", "link", "deep"])
def test_json_replaces_nothing_but_its_own_result(split, tmp_path, capsys, victim):
    own = tmp_path / "own"
    own.mkdir()
    for name, content in (("text", "my notes"), ("deep", "[" * 99_999)):
        (own / name).write_text(content)
    (own / "link").symlink_to(split[3])
    png = next(split[2].with_suffix("").glob("*.png"))
    file = {"gt_json": split[2], "prediction_json": split[3], "png": png}.get(victim, own / victim)
    before = file.read_bytes()
    assert f"{file}: --json names a file that is no result of pq" in said(capsys, split, "--json", file)
    assert file.read_bytes() == before
    for _ in range(2):
        assert run(*split[2:], "--json", own / "new.json") == 0


INTERRUPTED = """
import os, signal, sys, time
from panoptic_occ import pq
from panoptic_occ.metrics.pq.core import PQCounts

def interrupt(total, counts):
    time.sleep(0.5)
    os.killpg(0, signal.SIGINT)

PQCounts.__add__ = interrupt
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
