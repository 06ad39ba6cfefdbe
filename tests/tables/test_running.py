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
from scripts.suite import Run, last_error, plan_of, result_words
from scripts.tables import command as command_module
from scripts.tables import running
from scripts.tables.command import main
from scripts.tables.plan import PlannedRow, Setting, TableResults, collect, plan, waves
from scripts.tables.running import Launcher, Outcome, command, quoted, run_missing
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
        metrics = {"method": "m", "images": 8, "relations": {"m": {"PQ": 0.5 + run.config.seed / 100}}}
        contents = {
            run.folder / "config.yaml": OmegaConf.to_yaml(run.config, resolve=True),
            run.folder / "environment.json": "{}",
            **dict.fromkeys((run.folder / "metrics.json", run.metrics), json.dumps(metrics)),
            **dict.fromkeys((run.base, run.module), ""),
        }
        for file, content in contents.items():
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(content)


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
    assert len({run.base for planned in rows for run in planned.runs}) == 2
    assert len({run.module for planned in rows for run in planned.runs}) == 4
    order = []
    for wave in waves(rows):
        order.append([planned.row.name for planned in wave])
        for planned in wave:
            pretend(planned)
    # the others need the base of the first row, the last one its occlusion module too
    assert order == [["tau 0.4 rho 0.05"], ["tau 0.4 rho 0.20", "tau 0.5 rho 0.05"]]
    assert not any(planned.missing for planned in plan(table, setting(tmp_path, (0, 1))))


def test_one_failure_does_not_stop_the_others_and_is_tried_again(tmp_path: Path) -> None:
    table = some("ocfusion/table3", "Baseline", "OCFusion")
    rows = plan(table, setting(tmp_path))
    heard: list[Outcome] = []
    run_missing(rows, Pretending(tmp_path, fails=("Baseline",)), heard.append)
    assert {outcome.planned.row.name: outcome.problem for outcome in heard} == {
        "Baseline": "seed 0 failed",
        "OCFusion": None,
    }
    results = collect(table, setting(tmp_path), rows, {"Baseline-R50": "seed 0 failed"}, {"OCFusion-R50": 0.5})
    assert [(row.seeds, row.problem, row.minutes) for row in results.rows] == [
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
    assert run.results is not None
    same, other = (plan_of([*planned.words, word]).evaluation for word in ("seed=0", "fusion.stuff_area=1"))
    assert replace(run, plan=replace(run.plan, evaluation=same)).results is not None
    assert replace(run, plan=replace(run.plan, evaluation=other)).results is None
    run.metrics.unlink()
    assert run.results is None


def test_command_of_a_row(tmp_path: Path) -> None:
    (trained,) = plan(some("ocfusion/table6", "tau 0.4 rho 0.20"), setting(tmp_path, (0, 2)))
    words = command(trained, trained.runs, tmp_path / "it's", ["hydra/launcher=joblib"])
    assert "force=true" in words  # what is there under the same name has other settings
    assert words[:4] == [sys.executable, "-m", "panoptic_occ.train", "--multirun"]
    assert {"experiment=ocfusion/table6", "fusion.min_visible=0.4", "occlusion.sig_ratio=0.2", "seed=0,2"} <= {*words}
    assert words[-3:] == ["hydra.sweeper.params=null", f"hydra.sweep.dir='{tmp_path}/it\\'s'", "hydra/launcher=joblib"]
    fused = plan(some("ocfusion/table8", "none"), setting(tmp_path))[0]
    words = command(fused, fused.runs, tmp_path)
    assert words[2] == "panoptic_occ.evaluate" and f"run={quoted(fused.runs[0].folder)}" in words
    assert "saved=true" not in words  # nothing is stored there
    assert result_words(fused.words) == (
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


STOPPED = "2026-01-01 WARNING a.b: SIGTERM: stopped at step 9; go on"
LOGS = {
    "": None,
    "training\nerror: no data; give data.root\n": "no data; give data.root",
    "Traceback\n  File x\nValueError: wrong\n\nSet the variable HYDRA_FULL_ERROR=1\n": "ValueError: wrong",
    "torch.OutOfMemoryError: CUDA out of memory\nbye\n": "torch.OutOfMemoryError: CUDA out of memory",
    "step 5\nKilled\n": "Killed",
    f"error: old\n{STOPPED}\n0:00:22\n": "SIGTERM: stopped at step 9; go on",
    f"{STOPPED[:-5]}queued again\nslurmstepd: oom_kill\n": "slurmstepd: oom_kill",
}


@pytest.mark.parametrize(("log", "expected"), LOGS.items())
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


@pytest.mark.parametrize("seeds", ["0,x", "-1", ""])
def test_seeds_are_numbers(seeds: str, tmp_path: Path) -> None:
    assert [command_module._numbers(text) for text in ("1,2", "[0, 3]", "4")] == [(1, 2), (0, 3), (4,)]
    with pytest.raises(SystemExit, match=rf"error: seeds={seeds}: needs whole numbers .* such as seeds=0,1,2"):
        main(["oanet/table2", f"seeds={seeds}"], tmp_path)


def test_what_is_measured_is_shown_without_running(
    results: TableResults, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "results" / "tables" / "oanet_table2.json"
    table = load("oanet/table2")
    rows = [replace(results.rows[0], name=row.name, backbone=row.backbone) for row in table.rows]
    replace(results, table=table.name, rows=tuple(rows)).write(file)
    begins = {"markdown": "**OANet, Table 2", "latex": "% OANet, Table 2", "csv": "row,backbone,metric"}
    for form, begin in begins.items():
        assert main([table.name, "--format", form], tmp_path) == 0
        text = capsys.readouterr().out
        assert text.startswith(begin) and "51.0" in text
    with pytest.raises(SystemExit, match=r"error: .*oanet_table2_coco\.json: the file does not exist"):
        main([table.name, "--format", "csv", "data=coco"], tmp_path)
    assert main(["--list", table.name, "rap/table3"], tmp_path) == 0
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in capsys.readouterr().out.splitlines()[2:4]]
    assert [line[:3] + line[5:6] for line in lines] == [
        ["oanet/table2", "classes that the stuff branch learns", "full training", "2/2"],
        ["rap/table3", "backbones", "head training", "0/10"],
    ]
    (tmp_path / "README.md").write_text("<!-- tables: made by x -->\n<!-- end tables -->\n")
    assert main(["--documents"], tmp_path) == 0
    assert {path.name for path in file.parent.iterdir()} == {"oanet_table2.json", "oanet_table2.md"}
    assert "(results/tables/oanet_table2.md)" in (tmp_path / "README.md").read_text()


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
    runs, folder = tmp_path / "runs", tmp_path / "results" / "tables"
    words = [*tables, "data=tiny", "seeds=0", *TINY[1:], f"runs_dir={runs}"]
    assert main(words, tmp_path) == 0, capsys.readouterr().out
    one = Run.of(["preset=tiny", "occlusion.sig_ratio=0.1", f"runs_dir={runs}"])
    assert list((runs / "scenes_tiny").glob("base_*")) == [one.base.parent] and one.module.exists()
    assert list(one.base.parent.glob("*/occlusion.safetensors")) == [one.module]
    log = runs / "tables" / "ocfusion" / "table8" / "inter-class-intra-class-R50" / "multirun.yaml"
    assert "saved=true" in log.read_text()
    files = {name: folder / f"{name.replace('/', '_')}_tiny.json" for name in tables}
    results = {name: TableResults.read(file) for name, file in files.items()}
    for name, file in files.items():
        assert [sorted(row.seeds) for row in results[name].rows] == [[0]] and results[name].images == 8
        assert all(row.problem is None and row.minutes for row in results[name].rows)
        assert str(tmp_path) not in file.read_text() and file.with_suffix(".md").exists()
    fused, trained = (results[name].rows[0].seeds[0] for name in tables)
    assert fused == trained  # stored predictions, fused again, are what the network's run gives
    monkeypatch.setattr(running, "command", lambda *_: pytest.fail("a finished row was repeated"))
    before = os.stat(files["ocfusion/table7"]).st_mtime_ns
    assert main(words, tmp_path) == 0
    assert os.stat(files["ocfusion/table7"]).st_mtime_ns > before
