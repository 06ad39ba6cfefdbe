"""``python -m panoptic_occ.pq`` from files to table."""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
import sys
from collections import defaultdict
from fractions import Fraction

import numpy as np
import pytest

from helpers.pq_split import CATEGORIES, info_of, run, save
from panoptic_occ.data.coco.panoptic_io import read_panoptic_png
from panoptic_occ.pq import main


def expected_scores(target, prediction, categories, slow_pq):
    """PQ, SQ, RQ, N of All, Things, Stuff by brute force."""
    total = defaultdict(lambda: [0, 0, 0, Fraction(0)])
    for image_id, (ids, info) in target.items():
        for category, part in slow_pq(ids, info, *prediction[image_id]).items():
            for k, value in enumerate((part.tp, part.fp, part.fn, part.iou)):
                total[category][k] += value
    scores = {}
    for name, kinds in {"All": (0, 1), "Things": (1,), "Stuff": (0,)}.items():
        present = [total[c["id"]] for c in categories if c["isthing"] in kinds and any(total[c["id"]][:3])]
        n = len(present)
        whole = [tp + Fraction(fp + fn, 2) for tp, fp, fn, _ in present]
        scores[name] = {
            "pq": float(sum(c[3] / w for c, w in zip(present, whole, strict=True)) / n),
            "sq": float(sum(c[3] / c[0] if c[0] else 0 for c in present) / n),
            "rq": float(sum(c[0] / w for c, w in zip(present, whole, strict=True)) / n),
            "n": n,
        }
    return scores


def scores_of(gt_json, result_json, *more):
    out = result_json.with_name("pq.json")
    assert run(gt_json, result_json, "--json", out, *more) == 0
    return json.loads(out.read_text())


def test_numbers_equal_brute_force_for_any_number_of_processes(split, slow_pq, capsys):
    target, prediction, *files = split
    content = scores_of(*files, "--processes", 1)
    assert content == scores_of(*files, "--processes", 2)
    expected = expected_scores(target, prediction, CATEGORIES, slow_pq)
    assert 0.1 < expected["Things"]["pq"] < 0.9
    assert set(content) == {*expected, "per_class"}
    for name, scores in expected.items():
        assert content[name] == pytest.approx(scores, abs=1e-12)
    table = capsys.readouterr().out
    row = next(line for line in table.splitlines() if "Things" in line)
    percent = [f"{100 * expected['Things'][key]:.1f}" for key in ("pq", "sq", "rq")]
    assert [cell.strip() for cell in row.split("|")[2:6]] == [*percent, "2"]
    assert all(category["name"] in table for category in CATEGORIES)


def test_ground_truth_against_itself(coco_mini, tmp_path):
    gt_json = coco_mini / "annotations" / "panoptic_val2017.json"
    command = [sys.executable, "-m", "panoptic_occ.pq", "--gt_json_file", gt_json, "--pred_json_file", gt_json]
    out = tmp_path / "pq.json"
    done = subprocess.run([*command, "--json", out], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    content = json.loads(out.read_text())
    assert content["All"]["pq"] == content["Things"]["sq"] == content["Stuff"]["rq"] == 1.0
    assert content["All"]["n"] == content["Things"]["n"] + content["Stuff"]["n"]


def test_perturbed_real_images(coco_mini, slow_pq, tmp_path):
    notes = coco_mini / "annotations"
    gt_json = notes / "panoptic_val2017.json"
    content = json.loads(gt_json.read_text())
    target, prediction = {}, {}
    rng = np.random.default_rng(0)
    for entry in content["annotations"]:
        ids = read_panoptic_png(notes / "panoptic_val2017" / entry["file_name"])
        category_of = {segment["id"]: segment["category_id"] for segment in entry["segments_info"]}
        guess = np.roll(ids, rng.integers(5, 40, 2), axis=(0, 1))
        lost, gained = rng.choice(list(category_of), 2)
        guess[guess == lost] = 0
        guess[guess == gained] = rng.choice(list(category_of))
        target[entry["image_id"]] = ids, entry["segments_info"]
        prediction[entry["image_id"]] = guess, info_of(guess, category_of)
    scores = scores_of(gt_json, save(tmp_path / "result", prediction))
    expected = expected_scores(target, prediction, content["categories"], slow_pq)
    assert 0.1 < expected["All"]["pq"] < 0.95
    for name in expected:
        assert scores[name] == pytest.approx(expected[name], abs=1e-12)


def test_equals_panopticapi(split):
    evaluation = pytest.importorskip("panopticapi.evaluation")
    official, ours = evaluation.pq_compute(*map(str, split[2:])), scores_of(*split[2:])
    for name in ("All", "Things", "Stuff"):
        assert ours[name] == pytest.approx(official[name], abs=1e-12)
    for category, scores in official["per_class"].items():
        assert {key: ours["per_class"][str(category)][key] for key in scores} == pytest.approx(scores, abs=1e-12)


def test_folders_can_be_named(split, tmp_path):
    shutil.move(tmp_path / "target", tmp_path / "elsewhere")
    assert run(*split[2:]) == 1
    assert run(*split[2:], "--gt_folder", tmp_path / "elsewhere") == 0


@pytest.mark.parametrize("number", ["0", "-1", "many"])
def test_number_of_processes(split, number, capsys):
    with pytest.raises(SystemExit):
        run(*split[2:], "--processes", number)
    assert "is not a number of processes" in capsys.readouterr().err


def test_help_names_the_command_that_was_called(capsys):
    for prog in ({}, {"prog": "panoptic-occ pq"}):
        with pytest.raises(SystemExit):
            main(["--help"], **prog)
        text = capsys.readouterr().out
        name = prog.get("prog", "python -m panoptic_occ.pq")
        assert text.startswith(f"usage: {name} [-h] --gt_json_file ") and f"\n  {name} --gt_json_file panoptic" in text
        assert ("python -m" in text) == (not prog)


def test_starts_without_torch():
    code = "import sys, panoptic_occ.pq; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_area_that_contradicts_the_png_is_trusted_but_reported(tmp_path, capsys):
    ids = np.array([[1, 1, 1, 1, 0, 0]])
    info = [{"id": 1, "category_id": 3, "area": 4, "iscrowd": 0}]
    gt_json = save(tmp_path / "gt", {1: (ids, [{**info[0], "area": 5}]), 2: (ids, info)})
    result_json = save(tmp_path / "result", {1: (ids, info), 2: (ids, info)})
    assert scores_of(gt_json, result_json)["All"]["pq"] == pytest.approx((0.8 + 1) / 2)
    warning = capsys.readouterr().err
    assert "1 ground-truth segments in 1 images" in warning
    assert "000001.png, segment 1: area 5 in the JSON, 4 pixels in the PNG" in warning


COUNT_FAULTS = """
import resource, sys
from pathlib import Path
from panoptic_occ.metrics.pq.files import panoptic_quality_of_files
faults = []
for _ in range(3):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    panoptic_quality_of_files(*map(Path, sys.argv[1:]), processes=1)
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(faults[-1])
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library keeps or returns memory in its way")
def test_memory_of_an_image_is_that_of_the_one_before(tmp_path):
    """The kernel clears no fresh pages: a map of 480x640 ids alone has 300 of them, and an image needs several."""
    ids = np.arange(1, 4, dtype=np.int32).repeat(160)[:, None].repeat(640, 1)
    images = {k: (ids, info_of(ids, {1: 3, 2: 8, 3: 50})) for k in range(20)}
    files = [str(save(tmp_path / name, images)) for name in ("target", "result")]
    command = [sys.executable, "-c", COUNT_FAULTS, *files]
    faults = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert faults < 300 * len(images)


def test_segment_id_zero_gives_the_official_number_and_a_warning(tmp_path, capsys):
    """VOID as a segment: its pixels are taken off the union, so half a segment scores 100 %."""
    ids = np.array([[1, 1, 0, 0]])
    info = [{"id": 1, "category_id": 3, "area": 4, "iscrowd": 0}]
    gt_json = save(tmp_path / "gt", {1: (ids, [{**info[0], "area": 2}, {**info[0], "id": 0, "area": 2}])})
    result_json = save(tmp_path / "result", {1: (np.ones((1, 4), int), info)})
    assert scores_of(gt_json, result_json)["per_class"]["3"]["sq"] == 1
    assert "the ground truth of 1 images lists a segment of id 0, which is VOID" in capsys.readouterr().err


NUMBERS = ("image_id", "id", "category_id", "iscrowd", "isthing")


def as_text(node, key=""):
    """All ids and truth values of a JSON as text, those of images with leading zeros."""
    if isinstance(node, dict):
        return {name: as_text(value, name) for name, value in node.items()}
    if isinstance(node, list):
        return [as_text(value) for value in node]
    return f"{node:012}" if key == "image_id" else str(node) if key in NUMBERS else node


@pytest.mark.parametrize("sides", [(2,), (3,), (2, 3)])
def test_ids_and_truth_values_as_text(split, sides, capsys):
    expected = scores_of(*split[2:], "--processes", 1)
    for side in sides:
        split[side].write_text(json.dumps(as_text(json.loads(split[side].read_text()))))
    assert scores_of(*split[2:], "--processes", 1) == expected
    assert capsys.readouterr().err == ""


def test_backslashes_in_the_names_of_maps(split, tmp_path):
    expected = scores_of(*split[2:], "--processes", 1)
    (tmp_path / "result" / "sub").mkdir()
    content = json.loads(split[3].read_text())
    name = content["annotations"][0]["file_name"]
    (tmp_path / "result" / name).rename(tmp_path / "result" / "sub" / name)
    content["annotations"][0]["file_name"] = f"sub\\{name}"
    split[3].write_text(json.dumps(content))
    assert scores_of(*split[2:], "--processes", 1) == expected
