"""The table at the end of a sweep, with Hydra's launchers that need no cluster."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
import pytest
from omegaconf import OmegaConf

from helpers.tiny_runs import read
from panoptic_occ.commands import training
from panoptic_occ.commands.app import _check_processes, command
from panoptic_occ.commands.sweeps import Job, collect, details, note, recorded_job, score_of, to_table
from panoptic_occ.common.errors import ConfigError, DataError
from panoptic_occ.config.files import conf_dir
from panoptic_occ.runs.build import plan_of
from panoptic_occ.runs.plan import RunPlan

Sweep = Callable[..., str | None]


@pytest.fixture
def sweep(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Sweep:
    """Runs a command with these words and returns the message of its end, None for success."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    monkeypatch.setattr(logging.root, "handlers", list(logging.root.handlers))

    def run(then: Callable[[RunPlan], float | None], *arguments: str) -> str | None:
        @command("train", "Trains.", {})
        def main(plan: RunPlan) -> float | None:
            return then(plan)

        monkeypatch.setattr(sys, "argv", ["train", "-m", "compare=[]", f"hydra.sweep.dir={tmp_path}/sweep", *arguments])
        try:
            main()
        except SystemExit as stopped:
            return str(stopped.code)
        return None

    return run


def record(number: int) -> dict[str, Any]:
    return read(Path(f"sweep/{number}/job.json"))


def seed_two_fails(plan: RunPlan) -> float:
    if plan.seed == 2:
        raise DataError("a.png: truncated")
    if plan.seed == 3:
        note(state="skipped")
    note(run=f"runs/{plan.seed}")
    return plan.seed / 10


def test_a_failed_job_does_not_stop_the_others(sweep: Sweep, capsys: pytest.CaptureFixture[str]) -> None:
    message = sweep(seed_two_fails, "seed=1,2,3,4", "method=rap")
    text = Path("sweep/1/error.txt").resolve()
    assert message == (
        f"error: 1 of 4 jobs have no result, the first: a.png: truncated (log: {text}); the same command runs what is "
        "missing"
    )
    assert [record(k)["state"] for k in range(4)] == ["finished", "failed", "skipped", "finished"]
    assert record(3) | {"minutes": 0} == {
        "number": 3, "words": ["compare=[]", "seed=4", "method=rap"], "state": "finished", "minutes": 0,
        "run": "runs/4", "score": 0.4, "error": None, "log": None,
    }  # fmt: skip
    out = capsys.readouterr().out
    assert "sweep: 2 finished, 1 skipped, 1 failed" in out
    assert f"job 1 failed: a.png: truncated (log: {text})" in out
    assert "method=rap" not in out.partition("sweep: ")[2]  # all jobs have it
    assert "DataError: a.png: truncated" in text.read_text()


def test_later_batches_start_after_a_failure_and_what_an_earlier_sweep_left_does_not_count(
    sweep: Sweep, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sweep(seed_two_fails, "seed=1,2,3", "hydra.sweeper.max_batch_size=1") is not None
    assert record(2)["state"] == "skipped"
    assert sweep(seed_two_fails, "seed=1,4") is None
    assert "sweep: 2 finished, 0 skipped, 0 failed" in capsys.readouterr().out


def test_a_try_leaves_no_result(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(training, "prepared_data", lambda blueprint: None)
    for name in ("_check_trained", "content_of"):
        monkeypatch.setattr(training, name, lambda plan, data: {})
    results = {"method": "ocfusion", "relations": {"ocfusion": {"PQ": 0.5}}}
    monkeypatch.setattr(training, "_trained_and_evaluated", lambda plan, data, content: results)
    assert sweep(lambda plan: score_of(training.train(plan)), "seed=1,2", "trainer.fast_dev_run=1") is None
    assert [record(1)[key] for key in ("state", "run", "score", "error")] == ["tried", None, None, None]
    assert "sweep: 0 finished, 0 skipped, 0 failed, 2 tried" in capsys.readouterr().out


def test_debugging_shows_the_error_itself(sweep: Sweep) -> None:
    with pytest.raises(DataError, match="truncated"):
        sweep(seed_two_fails, "seed=1,2", "debug=true")
    assert record(1)["state"] == "failed"


def test_faults_of_ours_are_named_by_their_kind(sweep: Sweep) -> None:
    message = sweep(lambda plan: 1 / 0, "seed=1,2")
    assert message is not None and "the first: ZeroDivisionError: division by zero" in message


def test_a_signal_ends_a_sweep_and_leaves_its_mark(sweep: Sweep) -> None:
    def stop(plan: RunPlan) -> float:
        raise SystemExit(143)

    assert sweep(stop, "seed=1,2") == "143"
    assert record(0)["state"] == "stopped"
    assert not Path("sweep/1").exists()


def test_only_the_first_process_of_a_run_keeps_the_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_PROCID", "1")
    with recorded_job(tmp_path, 0, ["seed=0"], raises=False):
        raise DataError("seen by all")
    assert not list(tmp_path.iterdir())


def test_jobs_side_by_side(sweep: Sweep, capfd: pytest.CaptureFixture[str]) -> None:
    message = sweep(seed_two_fails, "seed=1,2,4", "hydra/launcher=local", "hydra.launcher.n_jobs=2")
    assert message is not None and message.startswith("error: 1 of 3 jobs have no result")
    assert "sweep: 2 finished, 0 skipped, 1 failed" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("several", "launcher"),
    [("devices=2", "basic"), ("devices=2", "local"), ("devices=[0,1]", "basic"), ("strategy=ddp", "basic")],
)
def test_processes_need_a_launcher_that_starts_them(sweep: Sweep, several: str, launcher: str) -> None:
    message = sweep(lambda plan: 0.0, "seed=0,1", f"trainer.{several}", f"hydra/launcher={launcher}")
    assert message is not None and "every process would run the whole sweep" in message
    assert "hydra/launcher=slurm_4gpu" in message


def test_optuna_gets_the_score_and_a_failed_trial_costs_only_itself(
    sweep: Sweep, capsys: pytest.CaptureFixture[str]
) -> None:
    def parabola(plan: RunPlan) -> float:
        if plan.policy.conf_thr < 0.4:
            raise DataError("no detections")
        return 1 - (plan.policy.conf_thr - 0.6) ** 2

    message = sweep(parabola, "sweep=thresholds_optuna", "hydra.sweeper.n_trials=14")
    jobs = [record(k) for k in range(14)]
    failed = [job for job in jobs if job["state"] == "failed"]
    assert message is not None and f"error: {len(failed)} of 14 jobs have no result" in message and failed
    best = max((job for job in jobs if job not in failed), key=lambda job: job["score"])
    search = Path("sweep/optimization_results.yaml").read_text()
    value = float(search.split("fusion.conf_thr:")[1].split()[0])
    assert abs(value - 0.6) < 0.1 and f"fusion.conf_thr={value}" in best["words"]
    said = capsys.readouterr().out
    assert f"best of 14 trials: job {best['number']} with PQ {100 * best['score']:.2f}: " in said
    assert f": fusion.conf_thr={value} fusion.min_visible=" in said and "This PQ is optimistic" in said


def test_a_search_in_which_every_trial_fails(sweep: Sweep, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(plan: RunPlan) -> float:
        raise DataError("no predictions are stored")

    message = sweep(fail, "sweep=thresholds_optuna", "hydra.sweeper.n_trials=2")
    assert message is not None and message.startswith("error: 2 of 2 jobs have no result, the first: no predictions")
    said = capsys.readouterr().out
    assert "sweep: 0 finished, 0 skipped, 2 failed" in said and "best of" not in said


@pytest.mark.parametrize("name", ["tau_rho", "sigma", "tau_rho_sigma", "methods", "thresholds_optuna"])
def test_a_sweep_is_no_part_of_a_runs_name(name: str) -> None:
    plan = plan_of([f"sweep={name}", "fusion.min_visible=0.4", "compare=[]"])
    assert plan.order.hyperparameters["choices"]["sweep"] == name
    assert plan.folder.path.name == f"{plan.method}_small_s0_fusion.min-visible-0.4"


@pytest.mark.parametrize(
    ("launcher", "tasks", "gpus"), [("slurm_cpu", 1, None), ("slurm_1gpu", 1, 1), ("slurm_4gpu", 4, 4)]
)
def test_jobs_of_launchers_know_when_their_time_is_up(launcher: str, tasks: int, gpus: int | None) -> None:
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        config = hydra.compose("config", [f"hydra/launcher={launcher}"], return_hydra_config=True)
    node = config.hydra.launcher
    # a job of at most ten minutes would take every signal for its time limit
    assert node.timeout_min > 10 and node.max_num_timeout > 0 and node.signal_delay_s >= 60
    assert (node.tasks_per_node, node.gpus_per_node) == (tasks, gpus)


def test_the_table_has_a_column_for_what_differs() -> None:
    jobs = [
        Job(0, ("seed=0", "method=rap", "fusion.min_visible=0.4"), "finished", 1.25, "runs/a", 0.5),
        Job(1, ("seed=1", "method=rap"), "cancelled", log="1.err"),
    ]
    table = to_table(jobs)
    assert [(column.header.plain, *map(str, column.cells)) for column in table.columns] == [  # type: ignore[union-attr]
        ("job", "0", "1"),
        ("seed", "0", "1"),
        ("fusion.min_visible", "0.4", ""),
        ("state", "finished", "cancelled"),
        ("minutes", "1.2", ""),
        ("PQ", "50.00", ""),
    ]
    assert [str(line) for line in details(jobs)] == ["job 1 cancelled: it left no message (log: 1.err)"]
    assert collect(Path("no such sweep")) == []


def test_the_score_is_the_methods_own() -> None:
    rows = {"score": {"PQ": 0.9}, "rap": {"PQ": 0.5}, "rap | tau 0.4": {"PQ": 0.6}, "rap | tau 0.5": {"PQ": None}}
    rows["rap_canvas"] = {"PQ": 0.8}  # another relation, whose name begins with the method's
    assert score_of({"method": "rap", "relations": rows}) == 0.6
    assert str(score_of({"method": "oanet", "relations": rows})) == "nan"


def test_slurm_must_start_what_lightning_expects() -> None:
    launcher = OmegaConf.create({"_target_": "a.SlurmLauncher", "tasks_per_node": 4})
    with pytest.raises(ConfigError, match=r"tasks_per_node=4 with trainer\.devices=1: SLURM must start one process"):
        _check_processes({"devices": 1}, launcher)
    _check_processes({"devices": 4, "strategy": "ddp"}, launcher)
