"""A benchmark that times a wrong result, or reports another ratio than it measured, is worth nothing."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from panoptic_occ.common.errors import ConfigError, DataError
from panoptic_occ.common.files import read_json
from scripts.benchmark.checks import equal
from scripts.benchmark.command import main
from scripts.benchmark.jobs import all_jobs, chosen
from scripts.benchmark.measure import (
    Contest,
    Job,
    Line,
    Outcome,
    Patience,
    StandIn,
    Timing,
    cores,
    high_water,
    in_turns,
    race,
)
from scripts.benchmark.rendering import COLUMNS, markdown, missed, report, rows, write_all
from scripts.markers import fill

PATIENCE = Patience(seconds=0.0, turns=3, most=5)


def job(ours: Any, theirs: Any, calls: list[str] | None = None, closed: list[bool] | None = None) -> Job:
    def call(name: str, value: Any) -> torch.Tensor:
        if calls is not None:
            calls.append(name)
        return torch.tensor(value)

    def prepare() -> Contest:
        stand_in = StandIn("dense", lambda: call("theirs", theirs), lambda a, b: equal(a, b, "numbers"), 2.0)
        close = (lambda: None) if closed is None else (lambda: closed.append(True))
        return Contest(lambda: call("ours", ours), [stand_in], [("elsewhere", 3.0)], close)

    return Job("toy", "a toy", "1x1", prepare)


def test_a_wrong_result_is_refused_before_it_is_timed() -> None:
    calls: list[str] = []
    closed: list[bool] = []
    outcome = race(job([1, 2], [1, 3], calls, closed), PATIENCE)
    assert outcome.problem == "numbers: 1 of 2 elements differ"
    assert outcome.ours is None and outcome.lines == ()
    assert calls.count("theirs") <= 2  # once, and once more for its memory; no repetition
    assert closed == [True]


def test_a_right_result_is_timed_in_turns() -> None:
    closed: list[bool] = []
    outcome = race(job([1], [1], closed=closed), PATIENCE)
    assert outcome.problem is None and outcome.ours is not None
    assert [(line.stand_in, line.target, line.theirs is None) for line in outcome.lines] == [
        ("dense", 2.0, False),
        ("elsewhere", 3.0, True),
    ]
    assert outcome.ours.calls >= 3 and 0 < outcome.ours.least <= outcome.ours.median
    assert closed == [True]


def test_time_is_what_the_processor_spent() -> None:
    """``spin`` works for 20 ms; sleeping is not work."""

    def spin() -> int:
        end = time.process_time() + 0.02
        while time.process_time() < end:
            pass
        return 0

    contest = Contest(spin, [StandIn("sleeper", lambda: time.sleep(0.05), lambda a, b: None)])
    outcome = race(Job("toy", "", "", lambda: contest), PATIENCE)
    assert outcome.ours is not None and 20 <= outcome.ours.median < 30
    assert outcome.lines[0].theirs is not None and outcome.lines[0].theirs.median < 5


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the kernel tells no high-water mark here")
def test_memory_sees_what_torch_frees_again() -> None:
    """64 MB for a moment; nothing is left, the mark stays."""
    result, megabytes = high_water(lambda: float(torch.ones(16 * 2**20).sum()))
    assert result == 16 * 2**20
    assert megabytes == pytest.approx(64, abs=4)
    assert (high_water(lambda: None)[1] or 0) < 4


def test_the_first_call_of_what_is_slow_is_a_turn() -> None:
    """Ours took 4 s when its result was compared, the other one 0.1 s: only that one is called again."""
    called: list[str] = []
    runs = [lambda: called.append("slow"), lambda: called.append("quick")]
    slow = in_turns([runs[0]] * 2, Patience(seconds=2.0, turns=1, most=9), time.perf_counter, [4.0, 5.0])
    assert slow == [[4.0], [5.0]] and called == []
    mixed = in_turns(runs, Patience(seconds=2.0, turns=1, most=9), time.perf_counter, [4.0, 0.1])
    assert mixed[0] == [4.0] and 0.1 not in mixed[1] and len(mixed[1]) >= 1
    assert set(called) == {"quick"}


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="threads cannot be pinned here")
def test_one_core_and_back() -> None:
    before, threads = os.sched_getaffinity(0), torch.get_num_threads()
    with cores(1):
        assert len(os.sched_getaffinity(0)) == 1 and torch.get_num_threads() == 1
    assert os.sched_getaffinity(0) == before and torch.get_num_threads() == threads


OURS, THEIRS = Timing(2.0, 1.5, 9, 3.25), Timing(50.0, 40.0, 3, None)
OUTCOMES = [
    Outcome(
        "a", "fast", "1x1", OURS, (Line("dense", THEIRS, 30.0), Line("api", None, 3.0), Line("other", THEIRS, None))
    ),
    Outcome("b", "slow", "1x1", OURS, (Line("dense", THEIRS, 25.0),)),
    Outcome("c", "broken", "1x1", problem="ids differ"),
]


def test_ratios_are_judged_by_their_targets() -> None:
    cells = rows(report(OUTCOMES, 1.0))
    found = {(row[0], row[3]): dict(zip(COLUMNS, row, strict=True)) for row in cells}
    fast = found["fast", "dense"]
    assert (fast["ours, ms"], fast["ms"], fast["ratio"], fast["target"], fast["reached"]) == (
        "2",
        "50",
        "25x",
        "30x",
        "no",
    )
    assert (fast["MB, ours"], fast["MB"]) == ("3.2", "-")
    assert found["slow", "dense"]["reached"] == "yes"  # exactly the target
    assert found["fast", "api"]["ms"] == "not installed" and found["fast", "api"]["reached"] == "-"
    assert found["fast", "other"]["target"] == "-"
    assert found["broken", "WRONG: ids differ"]["reached"] == "no"


def test_the_table_is_made_from_the_file(tmp_path: Path) -> None:
    found = report(OUTCOMES, 90.0)
    write_all(found, tmp_path / "benchmark.json")
    again = read_json(tmp_path / "benchmark.json")
    assert markdown(again) == markdown(found) and missed(again) == 1
    assert markdown(again) in (tmp_path / "benchmark.md").read_text()
    brief = markdown(again, required=True)
    assert "| other |" not in brief and "| fast | 1x1 | 2 | dense | 50 | 25x | 30x | no |" in brief
    assert "took 1.5 minutes" in brief


def test_markers_are_filled_once() -> None:
    text = "a\n<!-- bench: made by x -->\nold\n<!-- end bench -->\nb\n"
    assert fill(text, "bench", "new") == "a\n<!-- bench: made by x -->\nnew\n<!-- end bench -->\nb\n"
    with pytest.raises(DataError, match="markers for 'other', found 0"):
        fill(text, "other", "new")


def test_every_job_has_a_target_and_a_name_of_its_own() -> None:
    jobs = all_jobs()
    assert len({(j.name, j.size) for j in jobs}) == len(jobs)
    assert [j.name for j in chosen(["paste"])] == ["paste"] * 4
    with pytest.raises(ConfigError, match="did you mean 'paste'"):
        chosen(["past"])


@pytest.mark.parametrize("name", ["pairs", "ocfusion", "rap", "heuristic", "paste"])
def test_jobs_are_right(name: str) -> None:
    """The smallest size of each; the others differ in numbers only."""
    outcome = race(chosen([name])[-1], Patience(0.0, 1, 1))
    assert outcome.problem is None


def test_the_readme_gets_the_rows_with_a_target(tmp_path: Path) -> None:
    results, readme = tmp_path / "benchmark.json", tmp_path / "README.md"
    write_all(report(OUTCOMES[:2], 90.0), results)
    readme.write_text("# x\n<!-- bench: made by y -->\n<!-- end bench -->\nend\n")
    assert main(["--readme"], results, readme) == 0
    text = readme.read_text()
    assert text.count("| dense |") == 2 and "| other |" not in text
    assert text.startswith("# x\n") and text.endswith("<!-- end bench -->\nend\n")


def test_jobs_of_minutes_are_not_repeated_three_times() -> None:
    patience = Patience(seconds=2.0, turns=3, most=9, enough=30.0)
    assert in_turns([lambda: None], patience, time.perf_counter, [40.0]) == [[40.0]]
    assert len(in_turns([lambda: None], patience, time.perf_counter, [20.0])[0]) > 1
