"""What trackers learn, read back from the files that they leave: CSV, TensorBoard events, offline runs of W&B."""

from __future__ import annotations

import csv
import json
import logging
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from helpers.tiny_runs import TinyRun, equal_weights, read, steps, tiny_run
from helpers.wandb_files import OfflineRun, logging_plan, offline_runs
from panoptic_occ.commands.app import command
from panoptic_occ.common.errors import ConfigError
from panoptic_occ.config.compose import compose
from panoptic_occ.runs.build import plan_of
from panoptic_occ.runs.plan import RunPlan
from panoptic_occ.training import tracking
from panoptic_occ.training.tracking import tracked

WORDS = ["thing.max_detections=100", "compare=[score]", *steps(4, 2), "schedule.base.milestones=[2]"]
WORDS += ["validate={every: 2, images: 2}"]
TRACKERS = "[csv,tensorboard,wandb]"


def table(start: OfflineRun, name: str) -> list[dict[str, Any]]:
    (file,) = start.folder.glob(f"media/table/{name}_*.table.json")
    content = json.loads(file.read_text())
    return [dict(zip(content["columns"], row, strict=True)) for row in content["data"]]


def events(folder: Path) -> EventAccumulator:
    return EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0, "images": 0}).Reload()


@pytest.fixture(scope="module")
def offline() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "offline")
        patch.setenv("WANDB_SILENT", "true")
        yield


@pytest.fixture(scope="module")
def run(offline: None, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    """A run with all trackers at once."""
    run = tiny_run(cache, tmp_path_factory.mktemp("tracked"), *WORDS, f"logger={TRACKERS}")
    run.train()
    return run


def places(run: TinyRun) -> dict[str, Path]:
    """The folders of the three pieces of work."""
    plan = run.plan()
    return {"base": plan.base.folder.path, "occlusion": plan.order.folder.path, "evaluation": plan.folder.path}


def test_every_piece_of_work_is_a_run_of_its_own_that_knows_how_it_was_made(run: TinyRun) -> None:
    starts = {job: offline_runs(folder) for job, folder in places(run).items()}
    assert [len(of_job) for of_job in starts.values()] == [1, 1, 1]
    assert len({of_job[0].run.run_id for of_job in starts.values()}) == 3
    for job, (start,) in starts.items():
        folder = places(run)[job]
        assert start.run.run_id == (folder / "wandb_id").read_text()
        assert (start.run.job_type, start.run.run_group, start.run.project) == (job, "scenes_tiny", "panoptic_occ")
        assert start.run.display_name == str(folder.relative_to(run.runs))
        assert list(start.run.tags) == ["scenes_tiny", "small", "ocfusion"]
        assert start.config["stage"] == job and start.config["folder"] == str(folder)
        assert start.config["command"] == list(run.words)
        assert (start.config["seed"], start.config["method"]) == (0, {"name": "ocfusion"})
        assert start.config["fusion"]["min_visible"] == 0.5 and start.config["schedule"]["base"]["steps"] == 4
        assert start.exit_code == 0


@pytest.mark.parametrize("job", ["base", "occlusion"])
def test_all_trackers_hold_the_same_numbers_of_a_stage(run: TinyRun, job: str) -> None:
    folder = places(run)[job]
    with open(folder / "logs" / f"{job}_0" / "metrics.csv") as file:
        rows = list(csv.DictReader(file))
    in_csv = {(int(row["step"]), name): float(row[name]) for row in rows for name in row if row[name] and "/" in name}
    history = offline_runs(folder)[0].history
    in_wandb = {(row["trainer/global_step"], name): row[name] for row in history for name in row if "/" in name}
    in_wandb = {(step, name): value for (step, name), value in in_wandb.items() if name.startswith(f"{job}/")}
    accumulated = events(folder)
    names = [name for name in accumulated.Tags()["scalars"] if name.startswith(f"{job}/")]
    in_tensorboard = {(event.step, name): event.value for name in names for event in accumulated.Scalars(name)}
    assert in_csv.keys() == in_wandb.keys() == in_tensorboard.keys()
    for key, value in in_csv.items():
        assert in_wandb[key] == pytest.approx(value, rel=1e-6), key
        assert in_tensorboard[key] == pytest.approx(value, rel=1e-6), key

    number = {"base": 8, "occlusion": 4}[job]  # twice as many for half the reference batch
    losses = {"base": {"cls", "box", "mask", "rpn_cls", "rpn_box", "stuff"}, "occlusion": {"loss_occlusion"}}[job]
    logged = {name.removeprefix(f"{job}/") for _, name in in_csv if "/val/" not in name}
    assert logged == losses | {"loss", "lr", "images_per_s"}
    for step in range(number):
        total = sum(in_csv[step, f"{job}/{name}"] for name in losses)
        assert in_csv[step, f"{job}/loss"] == pytest.approx(total, rel=1e-5)
    stage = run.plan().order.schedule.build().stage(job, 4)
    expected = [stage.lr * stage.factor(step) for step in range(number)]
    assert [in_csv[step, f"{job}/lr"] for step in range(number)] == pytest.approx(expected, rel=1e-6)

    orders = {"base": ["score"], "occlusion": ["score", "ocfusion"]}[job]
    groups = [f"{score}{group}" for score in ("PQ", "SQ", "RQ") for group in ("", "_th", "_st")]
    validated = {name for _, name in in_csv if "/val/" in name and not name.endswith("/relation_accuracy")}
    assert validated == {f"{job}/val/{order}/{name}" for order in orders for name in groups}
    assert sorted(step for step, name in in_csv if name == f"{job}/val/score/PQ") == list(range(3, number, 4))


def test_the_result_is_told_as_numbers_tables_and_pictures(run: TinyRun) -> None:
    folder = places(run)["evaluation"]
    relations = run.metrics["relations"]
    (start,) = offline_runs(folder)
    numbers = start.history[0]
    for name, row in relations.items():
        for key, value in row.items():
            assert numbers.get(f"{name}/{key}") == value
    ours, score = relations["ocfusion"], relations["score"]
    assert {key: numbers.get(key) for key in ours} == ours
    assert numbers["gain"] == ours["PQ"] - score["PQ"] and numbers["gain_th"] == ours["PQ_th"] - score["PQ_th"]

    for row in table(start, "orders"):
        assert {key: row[key] for key in ours} == relations[row["order"]]
    classes = read(folder / "pq.json")
    for row in table(start, "per_class"):
        scores = {s["name"]: s for s in classes[row["entry"]]["per_class"].values()}[row["name"]]
        assert {key: row[key] for key in ("pq", "sq", "rq", "tp", "fp", "fn")}.items() <= scores.items()
    assert len(table(start, "per_class")) == 2 * len(classes["score"]["per_class"])

    overlays = next(row for row in start.history if "overlays.captions" in row)
    assert overlays["overlays.captions"] == ["image 1", "image 2", "image 3", "image 4"]
    for name in overlays["overlays.filenames"]:
        with Image.open(start.folder / name) as picture:
            assert picture.width > 5 * 380  # input, ground truth, score order, method, difference
    accumulated = events(folder)
    assert accumulated.Tags()["images"] == [f"overlays/image {k}" for k in (1, 2, 3, 4)]
    (picture,) = accumulated.Images("overlays/image 1")
    assert picture.width > 5 * 380
    assert accumulated.Scalars("ocfusion/relation_accuracy")[0].value == pytest.approx(ours["relation_accuracy"])
    with open(folder / "logs" / "evaluation" / "metrics.csv") as file:
        (row,) = csv.DictReader(file)
    assert float(row["PQ"]) == ours["PQ"]


def test_without_a_tracker_the_same_weights_and_no_files(run: TinyRun, cache: Path, tmp_path: Path) -> None:
    """And without the validation, which therefore leaves the training alone."""
    silent = tiny_run(cache, tmp_path, *WORDS, "logger=none")
    assert silent.train() == run.metrics
    base = silent.plan().base.folder.path
    assert {file.name for file in base.iterdir() if file.is_file()} == {
        "base.safetensors", "categories.json", "config.yaml", "environment.json"
    }  # fmt: skip
    assert not [path for name in ("logs", "wandb*", "tensorboard") for path in tmp_path.rglob(name)]
    for job in ("base", "occlusion"):
        assert equal_weights(*(places(each)[job] / f"{job}.safetensors" for each in (silent, run)))


def test_a_restart_continues_the_run_and_another_folder_never_joins_it(offline: None, tmp_path: Path) -> None:
    plan = logging_plan(tmp_path)
    with pytest.raises(KeyboardInterrupt), tracked(plan, plan.order, tmp_path / "a", "base", "0") as loggers:
        loggers[0].log_metrics({"base/loss": 3.0}, step=7)
        raise KeyboardInterrupt
    time.sleep(1.1)  # W&B names the folder of a start by the second
    with tracked(plan, plan.order, tmp_path / "a", "base", "8") as loggers:
        loggers[0].log_metrics({"base/loss": 2.0}, step=8)
    with tracked(plan, plan.order, tmp_path / "b", "base", "0"):
        pass
    first, second = offline_runs(tmp_path / "a")
    (other,) = offline_runs(tmp_path / "b")
    assert first.run.run_id == second.run.run_id != other.run.run_id
    assert (first.exit_code, second.exit_code) == (1, 0)
    assert [row["trainer/global_step"] for start in (first, second) for row in start.history] == [7, 8]
    assert not other.history


def test_only_the_main_process_tracks(offline: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    plan = logging_plan(tmp_path, logger=TRACKERS)
    with tracked(plan, plan.order, tmp_path / "a", "base") as loggers:
        assert loggers == []
    assert not (tmp_path / "a").exists()


def test_runs_of_a_sweep_are_grouped_but_not_merged(
    offline: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @command("train", "Trains.", {})
    def main(plan: RunPlan) -> float:
        with tracked(plan, plan.order, tmp_path / str(plan.seed), "evaluation") as loggers:
            loggers[0].log_metrics({"PQ": plan.seed / 10})
        return 0.5

    monkeypatch.setattr(logging.root, "handlers", list(logging.root.handlers))
    words = ["logger=wandb", "seed=1,2", f"hydra.sweep.dir={tmp_path}/thresholds", f"runs_dir={tmp_path}"]
    monkeypatch.setattr(sys, "argv", ["train", "-m", *words])
    main()
    starts = [start for seed in (1, 2) for start in offline_runs(tmp_path / str(seed))]
    assert [start.run.run_group for start in starts] == ["thresholds", "thresholds"]
    assert starts[0].run.run_id != starts[1].run.run_id
    assert [start.history[0]["PQ"] for start in starts] == [0.1, 0.2]
    monkeypatch.setattr(sys, "argv", ["train", "logger=wandb", "logger.wandb.group=mine", "seed=3", words[-1]])
    main()
    assert offline_runs(tmp_path / "3")[0].run.run_group == "mine"


def test_choices() -> None:
    assert compose(["logger=none"]).logger == {}
    assert list(compose(["logger=[csv,wandb]", "logger.wandb.project=mine"]).logger) == ["csv", "wandb"]
    for words in (["logger=wnadb"], ["logger=[csv,wnadb]"]):
        with pytest.raises(ConfigError, match=r"no choice 'wnadb'; did you mean 'wandb'\? allowed: csv, none, tensor"):
            compose(words)
    with pytest.raises(ConfigError, match=r"logger\.save_dir=here: every logger has its settings under a key"):
        plan_of(["logger=csv", "+logger.save_dir=here"])


def test_what_ended_the_work_is_what_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal to all processes of a job ends W&B's own one too; the run must still ask to be queued again."""

    def broken(exit_code: int) -> None:
        raise ConnectionResetError("Connection lost")

    monkeypatch.setattr(tracking, "_close_wandb", broken)
    plan = logging_plan(tmp_path, logger="none")
    with pytest.raises(SystemExit, match="255"), tracked(plan, plan.order, tmp_path, "base"):
        raise SystemExit(255)
