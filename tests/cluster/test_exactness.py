"""Several processes: evaluation gives the same files as one, training averages as it says, and nothing hangs."""

from __future__ import annotations

import csv
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from helpers.tiny_runs import BRIEF, read, steps
from panoptic_occ.runs.archive import Archive

ORACLE = ["data=scenes_tiny", "experiment=oracle_base", "run_name=run", "compare=[area,random,ground_truth]"]
ORACLE += ["details=true", "save_maps=true"]
STEPS = Path(__file__).with_name("shared_steps.py")


def files(folder: Path) -> dict[str, bytes]:
    """The content of every file, by its place; what trackers were told names the number of processes."""
    contents = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return {name: content for name, content in contents.items() if not name.startswith("logs/")}


def evaluated(runs: Path) -> Path:
    """The only evaluation below ``runs``."""
    (folder,) = runs.rglob("evaluations/*")
    return folder


@pytest.fixture(scope="module")
def alone(commands: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], dict[str, bytes]]:
    """The files of an evaluation of so many images by one process."""

    @cache
    def evaluation(images: int) -> dict[str, bytes]:
        runs = tmp_path_factory.mktemp("alone")
        commands.run("evaluate", *ORACLE, f"data.max_eval_images={images}", f"runs_dir={runs}")
        return files(evaluated(runs))

    return evaluation


@pytest.mark.parametrize("images", [7, 1])
def test_two_processes_write_the_files_of_one(commands: Any, alone: Any, tmp_path: Path, images: int) -> None:
    """Annotations as detections: real maps, without a network; 4 and 3 images, then 1 and none."""
    commands.run("evaluate", *ORACLE, f"data.max_eval_images={images}", f"runs_dir={tmp_path}", processes=2)
    one, two = alone(images), files(evaluated(tmp_path))
    assert {"metrics.json", "breakdown.json", "pq.json", "panoptic.json", "pictures.png"} <= set(one)
    assert len([name for name in one if name.startswith("panoptic/")]) == images
    assert set(one) == set(two)
    assert [name for name in one if one[name] != two[name]] == []
    assert json.loads(one["metrics.json"])["relations"]["ground_truth"]["PQ"] > 0.5


def test_the_processes_of_the_command_itself(commands: Any, alone: Any, tmp_path: Path) -> None:
    """As a user does it: Lightning starts the second process, which repeats the command."""
    shared = ["trainer.devices=2", "trainer.strategy=ddp", "data.max_eval_images=7", f"runs_dir={tmp_path}"]
    command = [sys.executable, "-m", "panoptic_occ.evaluate", *commands.words, *ORACLE, *shared]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.count("Results, per-class tables and pictures") == 1
    assert files(evaluated(tmp_path)) == alone(7)


def test_an_image_without_detections_in_one_process(commands: Any, undisturbed: Path, tmp_path: Path) -> None:
    evaluate = ["evaluate", *BRIEF, "data.max_eval_images=2"]
    shutil.copytree(undisturbed, tmp_path / "0")
    commands.run(*evaluate, f"runs_dir={tmp_path}/0", "save_predictions=true")
    (stored,) = tmp_path.rglob("base.zip")
    archive = Archive(stored, "")
    highest = [float(archive.read(image_id)["scores"].max()) for image_id in archive.image_ids()]
    for processes in (1, 2):
        runs = tmp_path / str(processes)
        shutil.copytree(undisturbed, runs)
        commands.run(*evaluate, f"fusion.conf_thr={sum(highest) / 2:.6f}", f"runs_dir={runs}", processes=processes)
    one, two = (files(evaluated(tmp_path / str(processes))) for processes in (1, 2))
    assert {name: one[name] == two[name] for name in one} == dict.fromkeys(one, True)


def test_the_last_look_while_training_sees_what_the_evaluation_sees(commands: Any, tmp_path: Path) -> None:
    """Both of the same images, in two processes."""
    words = ["data=scenes_tiny", "schedule=scenes_tiny", "experiment=oracle_base", "occlusion=oanet", "run_name=run"]
    words += ["compare=[score]", *steps(8, 8), "validate={every: 2, images: 5}", "data.max_eval_images=5"]
    log = commands.run("train", *words, f"runs_dir={tmp_path}", processes=2)
    assert "sync_dist" not in log
    (file,) = tmp_path.rglob("logs/occlusion_0/metrics.csv")
    looks = [row for row in csv.DictReader(file.read_text().splitlines()) if row["occlusion/val/score/PQ"]]
    assert [row["step"] for row in looks] == ["3", "7"]
    rows = read(tmp_path / "scenes_tiny" / "run" / "metrics.json")["relations"]
    assert list(rows) == ["score", "oanet"]
    for order, row in rows.items():
        for name in ("PQ", "RQ_th", "SQ_st", "relation_accuracy"):
            assert float(looks[-1][f"occlusion/val/{order}/{name}"]) == pytest.approx(row[name], rel=1e-6)


def test_every_method_trains_in_two_processes(commands: Any, tmp_path: Path) -> None:
    """Without ``find_unused_parameters``; also when one process, or both, have no pairs."""
    commands.run(str(STEPS), "preset=tiny", f"runs_dir={tmp_path}", processes=2)
    stages = read(tmp_path / "stages.json")
    assert set(stages) == {"ocfusion", "oanet", "rap", "refine", "sognet", "banet", "ibpp"}
    for method, (logged, means, equal) in stages.items():
        assert equal, f"{method}: the processes ended with different weights"
        assert logged == pytest.approx(means, rel=1e-6), method


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1)])
def test_goes_on_with_another_number_of_processes(
    commands: Any, undisturbed: Path, tmp_path: Path, before: int, after: int
) -> None:
    train = ["train", *BRIEF, f"runs_dir={tmp_path}"]
    status = 128 + signal.SIGTERM
    log = commands.fails(*train, fault="base 3 SIGTERM", status=status, processes=before)
    assert "stopped at step 3; the same command continues" in log
    log = commands.run(*train, processes=after)
    said = f"the checkpoint was made by {before} process(es), {after} go on"
    assert log.count(said) == 1 and "the results will differ a little" in log
    assert read(tmp_path / "scenes_tiny" / "run" / "metrics.json")["images"] == 3
    ours, theirs = (load_file(next(runs.rglob("base.safetensors"))) for runs in (tmp_path, undisturbed))
    assert not all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert all(torch.allclose(ours[name].float(), theirs[name].float(), atol=0.1) for name in theirs)


def test_a_bad_loss_of_one_process_stops_both(commands: Any, tmp_path: Path) -> None:
    log = commands.fails("train", *BRIEF, f"runs_dir={tmp_path}", fault="base 2 nan", rank=1, processes=2)
    errors = [line for line in log.splitlines() if line.startswith("error: ")]
    assert len(errors) == 2 and errors[0] == errors[1] and "Traceback" not in log
    assert "not finite at step 1: " in errors[0] and errors[0].count("images") == 1


def test_strategies_that_lose_the_metrics_are_refused(commands: Any, tmp_path: Path) -> None:
    words = [*BRIEF, f"runs_dir={tmp_path}", "trainer.devices=2", "trainer.strategy=ddp_fork"]
    assert "use trainer.strategy=ddp" in commands.fails("train", *words)
