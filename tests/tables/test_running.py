"""Running what is missing: with a command that only pretends, and once for real on the tiny scenes."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from panoptic_occ.common.errors import ConfigError
from panoptic_occ.config.compose import compose
from panoptic_occ.runs.folders import RunFolder, base_folder, occlusion_folder
from scripts.tables import command as command_module
from scripts.tables import running
from scripts.tables.command import main
from scripts.tables.cost import Cost, cost
from scripts.tables.measured import Measured, gather, own_words
from scripts.tables.plan import PlannedRow, Setting, plan, waves
from scripts.tables.running import Launcher, Outcome, command, last_error, quoted, run_missing
from scripts.tables.tables import Table, load

TINY = ("preset=tiny", "trainer=cpu", "trainer.enable_progress_bar=false")


def some(name: str, *rows: str) -> Table:
    """A table with some of its rows."""
    table = load(name)
    return replace(table, rows=tuple(row for row in table.rows if row.name in rows and row.backbone == "R50"))


def setting(runs: Path, seeds: tuple[int, ...] = (0,)) -> Setting:
    return Setting((*TINY[:1], f"runs_dir={runs}"), seeds)


def pretend(planned: PlannedRow) -> None:
    """Leaves behind what the command of a row would leave."""
    for run in planned.runs:
        folder = RunFolder(run.folder.path)
        folder.path.mkdir(parents=True, exist_ok=True)
        folder.config.write_text(OmegaConf.to_yaml(run.config, resolve=True))
        (folder.path / "environment.json").write_text("{}")
        metrics = {"method": "m", "images": 8, "relations": {"m": {"PQ": 0.5 + run.seed / 100}}}
        for file in (folder.metrics, run.results):
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(metrics))
        for weights in run.missing_weights():
            weights.parent.mkdir(parents=True, exist_ok=True)
            weights.touch()


@dataclass(frozen=True)
class Pretending(Launcher):
    """A launcher that runs nothing; rows named in ``fails`` leave nothing behind."""

    fails: tuple[str, ...] = ()

    def __call__(self, planned: PlannedRow) -> Outcome:
        if planned.row.name in self.fails:
            return Outcome(planned, 0.5, "seed 0 failed", "on purpose")
        pretend(planned)
        return Outcome(planned, 0.5)


def test_bases_are_trained_once_and_before_others_need_them(tmp_path: Path) -> None:
    table = some("ocfusion/table6", "tau 0.4 rho 0.05", "tau 0.5 rho 0.05", "tau 0.4 rho 0.20")
    rows = plan(table, setting(tmp_path, (0, 1)))
    assert cost(rows) == Cost(bases=2, heads=4, evaluations=6, pending=0)
    order = []
    for wave in waves(rows):
        order.append([planned.row.name for planned in wave])
        for planned in wave:
            pretend(planned)
    # the others need the base of the first row, the last one its occlusion module too
    assert order == [["tau 0.4 rho 0.05"], ["tau 0.4 rho 0.20", "tau 0.5 rho 0.05"]]
    assert cost(plan(table, setting(tmp_path, (0, 1)))) == Cost(0, 0, 0, 0)


def test_one_failure_does_not_stop_the_others_and_is_tried_again(tmp_path: Path) -> None:
    table = some("ocfusion/table3", "Baseline", "OCFusion")
    rows = plan(table, setting(tmp_path))
    heard: list[Outcome] = []
    run_missing(rows, Pretending(tmp_path, fails=("Baseline",)), heard.append)
    assert {outcome.planned.row.name: outcome.problem for outcome in heard} == {
        "Baseline": "seed 0 failed",
        "OCFusion": None,
    }
    measured = gather(table, setting(tmp_path), rows, {"Baseline-R50": "seed 0 failed"}, {"OCFusion-R50": 0.5})
    assert [(row.seeds, row.problem, row.minutes) for row in measured.rows] == [
        ({}, "seed 0 failed", None),
        ({0: {"PQ": 0.5}}, None, 0.5),
    ]
    again: list[Outcome] = []
    run_missing(rows, Pretending(tmp_path), again.append)
    assert [outcome.planned.row.name for outcome in again] == ["Baseline"]


def test_rows_are_not_fused_without_their_detections(tmp_path: Path) -> None:
    rows = plan(some("ocfusion/table8", "none", "inter-class"), setting(tmp_path))
    heard: list[Outcome] = []
    run_missing(rows, Pretending(tmp_path, fails=("detections",)), heard.append)
    assert [(outcome.planned.row.name, outcome.problem) for outcome in heard] == [
        ("detections", "seed 0 failed"),
        ("none", "not made"),
        ("inter-class", "not made"),
    ]


def test_a_run_of_other_settings_is_not_taken_for_done(tmp_path: Path) -> None:
    (planned,) = plan(some("ocfusion/table3", "OCFusion"), setting(tmp_path))
    pretend(planned)
    (run,) = planned.runs
    assert run.done is not None
    same, other = compose([*planned.words, "processes=1"]), compose([*planned.words, "fusion.stuff_area=1"])
    assert replace(run, config=same).done is not None and replace(run, config=other).done is None
    run.folder.metrics.unlink()
    assert run.done is None


def test_command_of_a_row(tmp_path: Path) -> None:
    (trained,) = plan(some("ocfusion/table6", "tau 0.4 rho 0.20"), setting(tmp_path, (0, 2)))
    words = command(trained, trained.runs, tmp_path / "it's", ["hydra/launcher=joblib"])
    assert "force=true" in words  # what is there under the same name has other settings
    assert words[:4] == [sys.executable, "-m", "panoptic_occ.train", "--multirun"]
    assert {"experiment=ocfusion/table6", "fusion.min_visible=0.4", "occlusion.sig_ratio=0.2", "seed=0,2"} <= {*words}
    assert words[-3:] == ["hydra.sweeper.params=null", f"hydra.sweep.dir='{tmp_path}/it\\'s'", "hydra/launcher=joblib"]
    fused = plan(some("ocfusion/table8", "none"), setting(tmp_path))[0]
    words = command(fused, fused.runs, tmp_path)
    assert words[2] == "panoptic_occ.evaluate" and f"run={quoted(fused.runs[0].folder.path)}" in words
    assert "saved=true" not in words  # nothing is stored there
    assert own_words(fused) == (
        "experiment=ocfusion/table8", "preset=tiny", "occlusion.inter=False", "occlusion.intra=False",
    )  # fmt: skip


def test_ground_truth_in_the_place_of_predictions_asks_the_network() -> None:
    oracle = plan(load("banet/table4"), Setting((), (0,)))
    assert [planned.same_predictions for planned in oracle] == [True, False, False, False, False, False]
    assert all(planned.same_predictions for planned in plan(some("ocfusion/table8", "none"), Setting((), (0,))))


def test_a_row_that_does_not_compose_is_pending(tmp_path: Path) -> None:
    table = some("ocfusion/table3", "OCFusion")
    broken = replace(table.rows[0], overrides=("occlusion.sig_ration=1",))
    (planned,) = plan(replace(table, rows=(broken,)), setting(tmp_path))
    assert planned.pending is not None and "did you mean 'sig_ratio'" in planned.pending and not planned.runs
    with pytest.raises(ConfigError, match="no key or group 'typo'"):
        plan(table, Setting(("typo=1",), (0,)))


@pytest.mark.parametrize(
    ("log", "expected"),
    [
        ("", None),
        ("training\nerror: no data; give data.root\n", "no data; give data.root"),
        (
            "Traceback\n  File x\nValueError: wrong\n\nSet the variable HYDRA_FULL_ERROR=1\n",
            "ValueError: wrong",
        ),
        ("torch.OutOfMemoryError: CUDA out of memory\nbye\n", "torch.OutOfMemoryError: CUDA out of memory"),
        ("step 5\nKilled\n", "Killed"),
        (
            "error: old\n2026-01-01 WARNING a.b: SIGTERM: stopped at step 9; go on\n0:00:22\n",
            "SIGTERM: stopped at step 9; go on",
        ),
        (
            "2026-01-01 WARNING a.b: SIGUSR2: stopped at step 9; queued again\nslurmstepd: oom_kill\n",
            "slurmstepd: oom_kill",
        ),
    ],
)
def test_last_error(log: str, expected: str | None) -> None:
    assert last_error(log) == expected


def test_failed_command_is_shown_with_its_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (planned,) = plan(some("ocfusion/table3", "OCFusion"), setting(tmp_path))
    failing = [sys.executable, "-c", "import sys; sys.exit('error: on purpose')"]
    monkeypatch.setattr(running, "command", lambda *_: failing)
    outcome = Launcher(tmp_path / "logs")(planned)
    log = tmp_path / "logs" / "OCFusion-R50" / "log.txt"
    assert (outcome.problem, outcome.reason) == ("seed 0 failed", f"on purpose (log: {log})")
    assert log.read_text() == "error: on purpose\n"


def test_seeds_and_data_of_a_setting() -> None:
    assert Setting.of(load("ocfusion/table6"), "scenes") == Setting((), (0, 1, 2))
    assert Setting.of(load("oanet/table1"), "scenes", ["x=1"]) == Setting(("x=1",), (0,))
    assert Setting.of(load("ocfusion/table6"), "coco", ["x=1"]) == Setting(("preset=coco", "x=1"), (0,))
    assert Setting.of(load("ocfusion/table6"), "scenes_tiny", seeds=(3,)) == Setting(("data=scenes_tiny",), (3,))


def test_list_shows_kind_and_cost(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["ocfusion/table6", "rap/table3", f"runs_dir={tmp_path}"]
    assert main(["--list", *words], tmp_path) == 0
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in capsys.readouterr().out.splitlines()]
    about = "thresholds tau and rho"
    assert ["ocfusion/table6", "head training", about, "9", "0", "3", "1", "3", "9", "-"] in rows
    assert ["rap/table3", "head training", "backbones", "10", "4", "3", "3", "3", "6", "-"] in rows


@pytest.mark.parametrize(("seeds", "count"), [("1,2", 2), ("[0, 3]", 2), ("4", 1), ("0,x", 0), ("-1", 0), ("", 0)])
def test_seeds_are_numbers(seeds: str, count: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--list", "oanet/table2", f"seeds={seeds}", f"runs_dir={tmp_path}"]
    if not count:
        with pytest.raises(SystemExit, match=rf"error: seeds={seeds}: needs whole numbers .* such as seeds=0,1,2"):
            main(words, tmp_path)
        return
    assert main(words, tmp_path) == 0
    (row,) = (line for line in capsys.readouterr().out.splitlines() if "oanet/table2" in line)
    assert row.split("|")[6].strip() == str(count)


def test_from_results_renders_without_running(
    table: Table,
    measured: Measured,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(command_module, "load", lambda _: table)
    measured.write(tmp_path / "ocfusion_table3.json")
    assert main(["ocfusion/table3", "--from-results"], tmp_path) == 0
    assert "52.5 ± 1.5 (+1.5 ± 0.5)" in capsys.readouterr().out
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".md", ".tex", ".csv"}
    with pytest.raises(SystemExit, match=r"error: .*ocfusion_table3_coco\.json: the file does not exist"):
        main(["ocfusion/table3", "--from-results", "data=coco"], tmp_path)


@pytest.fixture(scope="module")
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The child processes paint the tiny scenes once, and not into the user's cache."""
    patch = pytest.MonkeyPatch()
    patch.setenv("PANOPTIC_OCC_CACHE", str(tmp_path_factory.mktemp("cache")))
    patch.setenv("OMP_NUM_THREADS", "1")
    yield
    patch.undo()


@pytest.mark.usefixtures("shared_cache")
def test_two_tables_for_real_on_one_base(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tables = {
        "ocfusion/table8": some("ocfusion/table8", "inter-class + intra-class"),
        "ocfusion/table7": some("ocfusion/table7", "tau 0.6 rho 0.10"),
    }
    monkeypatch.setattr(command_module, "load", tables.__getitem__)
    runs, results = tmp_path / "runs", tmp_path / "results"
    words = [*tables, "data=tiny", "seeds=0", *TINY[1:], f"runs_dir={runs}"]
    assert main(words, results) == 0, capsys.readouterr().out
    config = compose(["preset=tiny", "occlusion.sig_ratio=0.1", f"runs_dir={runs}"])
    assert [path.name for path in (runs / "scenes_tiny").glob("base_*")] == [base_folder(config).path.name]
    assert occlusion_folder(config).weights("occlusion").exists()
    assert len(list(base_folder(config).path.glob("*/occlusion.safetensors"))) == 1
    log = runs / "tables" / "ocfusion" / "table8" / "inter-class-intra-class-R50" / "multirun.yaml"
    assert "saved=true" in log.read_text()
    for name in tables:
        measured = Measured.read(results / f"{name.replace('/', '_')}_tiny.json")
        assert [sorted(row.seeds) for row in measured.rows] == [[0]] and measured.images == 8
        assert all(row.problem is None and row.minutes for row in measured.rows)
        assert str(tmp_path) not in (results / f"{name.replace('/', '_')}_tiny.json").read_text()
    fused = Measured.read(results / "ocfusion_table8_tiny.json").rows[0].seeds[0]
    trained = Measured.read(results / "ocfusion_table7_tiny.json").rows[0].seeds[0]
    assert fused == trained  # stored predictions, fused again, are what the network's run gives
    monkeypatch.setattr(running, "command", lambda *_: pytest.fail("a finished row was repeated"))
    before = os.stat(results / "ocfusion_table7_tiny.json").st_mtime_ns
    assert main(words, results) == 0
    assert os.stat(results / "ocfusion_table7_tiny.json").st_mtime_ns > before
