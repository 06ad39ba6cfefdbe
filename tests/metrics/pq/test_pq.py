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

from helpers.pq_split import CATEGORIES, info_of, random_split, run, save
from panoptic_occ.data.coco.panoptic_io import read_panoptic_png
from panoptic_occ.metrics.pq import files as pq_files


@pytest.fixture
def split(tmp_path):
    return random_split(tmp_path)


def expected_scores(target, prediction, categories, slow_pq):
    """(PQ, SQ, RQ, N) of All, Things, Stuff by brute force."""
    total = defaultdict(lambda: [0, 0, 0, Fraction(0)])
    for image_id, (ids, info) in target.items():
        for category, part in slow_pq(ids, info, *prediction[image_id]).items():
            for k, value in enumerate((part.tp, part.fp, part.fn, part.iou)):
                total[category][k] += value
    groups = {"All": (0, 1), "Things": (1,), "Stuff": (0,)}
    scores = {}
    for name, kinds in groups.items():
        chosen = [total[c["id"]] for c in categories if c["isthing"] in kinds and any(total[c["id"]][:3])]
        n = len(chosen)
        whole = [tp + Fraction(fp + fn, 2) for tp, fp, fn, _ in chosen]
        scores[name] = {
            "pq": float(sum(c[3] / w for c, w in zip(chosen, whole, strict=True)) / n),
            "sq": float(sum(c[3] / c[0] if c[0] else 0 for c in chosen) / n),
            "rq": float(sum(c[0] / w for c, w in zip(chosen, whole, strict=True)) / n),
            "n": n,
        }
    return scores


class TestNumbers:
    def test_equal_brute_force_for_any_number_of_processes(self, split, slow_pq, tmp_path, capsys):
        target, prediction, gt_json, result_json = split
        for processes in (1, 2):
            out = tmp_path / f"pq{processes}.json"
            assert run(gt_json, result_json, "--json", out, "--processes", processes) == 0
        assert (tmp_path / "pq1.json").read_text() == (tmp_path / "pq2.json").read_text()
        content = json.loads((tmp_path / "pq1.json").read_text())
        expected = expected_scores(target, prediction, CATEGORIES, slow_pq)
        assert 0.1 < expected["Things"]["pq"] < 0.9
        assert set(content) == {*expected, "per_class"}
        for name, scores in expected.items():
            assert content[name] == pytest.approx(scores, abs=1e-12)
        table = capsys.readouterr().out
        row = next(line for line in table.splitlines() if "Things" in line)
        assert [cell.strip() for cell in row.split("|")[2:6]] == [
            f"{100 * expected['Things'][key]:.1f}" for key in ("pq", "sq", "rq")
        ] + ["2"]
        assert all(category["name"] in table for category in CATEGORIES)

    def test_ground_truth_against_itself(self, coco_mini, tmp_path):
        gt_json = coco_mini / "annotations" / "panoptic_val2017.json"
        command = [sys.executable, "-m", "panoptic_occ.pq", "--gt_json_file", gt_json, "--pred_json_file", gt_json]
        out = tmp_path / "pq.json"
        done = subprocess.run([*command, "--json", out], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        content = json.loads(out.read_text())
        assert content["All"]["pq"] == content["Things"]["sq"] == content["Stuff"]["rq"] == 1.0
        assert content["All"]["n"] == content["Things"]["n"] + content["Stuff"]["n"]
        assert "warning" not in done.stderr

    def test_perturbed_real_images(self, coco_mini, slow_pq, tmp_path):
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
        result_json = save(tmp_path / "result", prediction)
        assert run(gt_json, result_json, "--json", tmp_path / "pq.json") == 0
        scores = json.loads((tmp_path / "pq.json").read_text())
        expected = expected_scores(target, prediction, content["categories"], slow_pq)
        assert 0.1 < expected["All"]["pq"] < 0.95
        for name in expected:
            assert scores[name] == pytest.approx(expected[name], abs=1e-12)

    def test_equals_panopticapi(self, split, tmp_path):
        evaluation = pytest.importorskip("panopticapi.evaluation")
        *_, gt_json, result_json = split
        official = evaluation.pq_compute(str(gt_json), str(result_json))
        assert run(gt_json, result_json, "--json", tmp_path / "pq.json") == 0
        ours = json.loads((tmp_path / "pq.json").read_text())
        for name in ("All", "Things", "Stuff"):
            assert ours[name] == pytest.approx(official[name], abs=1e-12)
        for category, scores in official["per_class"].items():
            assert {key: ours["per_class"][str(category)][key] for key in scores} == pytest.approx(scores, abs=1e-12)


class TestArguments:
    def test_folders_can_be_named(self, split, tmp_path):
        *_, gt_json, result_json = split
        shutil.move(tmp_path / "target", tmp_path / "elsewhere")
        assert run(gt_json, result_json) == 1
        assert run(gt_json, result_json, "--gt_folder", tmp_path / "elsewhere") == 0

    @pytest.mark.parametrize("number", ["0", "-1", "many"])
    def test_number_of_processes(self, split, number, capsys):
        with pytest.raises(SystemExit):
            run(*split[2:], "--processes", number)
        assert "is not a number of processes" in capsys.readouterr().err

    def test_starts_without_torch(self):
        code = "import sys, panoptic_occ.pq; sys.exit('torch' in sys.modules)"
        assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

    def test_every_image_is_reported_as_progress(self, split):
        seen = []
        pq_files.panoptic_quality_of_files(*split[2:], processes=1, on_progress=lambda *step: seen.append(step))
        assert seen == [(16, 70), (32, 70), (48, 70), (64, 70), (70, 70)]


def test_area_that_contradicts_the_png_is_trusted_but_reported(tmp_path, capsys):
    ids = np.array([[1, 1, 1, 1, 0, 0]])
    info = [{"id": 1, "category_id": 3, "area": 4, "iscrowd": 0}]
    wrong = [{**info[0], "area": 5}]
    gt_json, result_json = save(tmp_path / "gt", {1: (ids, wrong), 2: (ids, info)}), save(
        tmp_path / "result", {1: (ids, info), 2: (ids, info)}
    )  # fmt: skip
    assert run(gt_json, result_json, "--json", tmp_path / "pq.json") == 0
    assert json.loads((tmp_path / "pq.json").read_text())["All"]["pq"] == pytest.approx((0.8 + 1) / 2)
    warning = capsys.readouterr().err
    assert "1 ground-truth segments in 1 images" in warning
    assert "000001.png, segment 1: area 5 in the JSON, 4 pixels in the PNG" in warning


COUNT_FAULTS = """
import resource, sys
from pathlib import Path
from panoptic_occ.metrics import pq_files
faults = []
for _ in range(3):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    pq_files.panoptic_quality_of_files(*map(Path, sys.argv[1:]), processes=1)
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
