"""A benchmark that times a wrong result, or reports another ratio than it measured, is worth nothing."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from panoptic_occ.common.errors import ConfigError
from panoptic_occ.common.files import write_json
from scripts.benchmark.checks import equal
from scripts.benchmark.command import COLUMNS, jobs, main, markdown, report, rows
from scripts.benchmark.measure import Contest, Job, Patience, StandIn, cores, high_water, in_turns, race

PATIENCE = Patience(seconds=0.0, turns=3, most=5)


def job(ours: Any, theirs: Any, calls: list[str]) -> Job:
    """A toy beside a dense way and a package that is not there; ``calls`` tells who was called."""

    def call(name: str, value: Any) -> torch.Tensor:
        calls.append(name)
        return torch.tensor(value)

    def check(a: torch.Tensor, b: torch.Tensor) -> None:
        equal(a, b, "numbers")

    stand_ins = [StandIn("dense", lambda: call("theirs", theirs), check, 2.0), StandIn("elsewhere", None, check, 3.0)]
    contest = Contest(lambda: call("ours", ours), stand_ins, lambda: calls.append("closed"))
    return Job("toy", "a toy", "1x1", lambda: contest)


def test_a_wrong_result_is_refused_before_it_is_timed() -> None:
    calls: list[str] = []
    outcome = race(job([1, 2], [1, 3], calls), PATIENCE)
    assert outcome["problem"] == "numbers: 1 of 2 elements differ"
    assert outcome["ours"] is None and outcome["lines"] == []
    assert calls.count("theirs") <= 2  # once, and once more for its memory; no repetition
    assert calls[-1] == "closed"


def test_a_right_result_is_timed_in_turns() -> None:
    calls: list[str] = []
    outcome = race(job([1], [1], calls), PATIENCE)
    ours, lines = outcome["ours"], outcome["lines"]
    named = [(line["stand_in"], line["target"]) for line in lines]
    assert outcome["problem"] is None and named == [("dense", 2.0), ("elsewhere", 3.0)]
    assert lines[0]["theirs"]["calls"] == calls.count("theirs") - 2 and lines[1]["theirs"] is None
    assert ours["calls"] >= 3 and 0 < ours["least"] <= ours["median"]
    assert calls[-1] == "closed"


def test_time_is_what_the_processor_spent() -> None:
    """``spin`` works for 20 ms; sleeping is not work."""

    def spin() -> int:
        end = time.process_time() + 0.02
        while time.process_time() < end:
            pass
        return 0

    contest = Contest(spin, [StandIn("sleeper", lambda: time.sleep(0.05), lambda a, b: None)])
    outcome = race(Job("toy", "", "", lambda: contest), PATIENCE)
    assert 20 <= outcome["ours"]["median"] < 30
    assert outcome["lines"][0]["theirs"]["median"] < 5


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


def timing(median: float, memory: float | None) -> dict[str, float | None]:
    return {"median": median, "least": median, "calls": 3, "memory": memory}


def outcome(about: str, *lines: tuple[str, Any, float | None], problem: str | None = None) -> dict[str, Any]:
    shown = [{"stand_in": name, "theirs": theirs, "target": target} for name, theirs, target in lines]
    return {"job": "j", "about": about, "size": "1x1", "ours": timing(2.0, 3.25), "lines": shown, "problem": problem}


OUTCOMES = [
    outcome("fast", ("dense", timing(50.0, None), 30.0), ("api", None, 3.0), ("other", timing(50.0, None), None)),
    outcome("slow", ("dense", timing(50.0, None), 25.0)),
    outcome("broken", problem="ids differ"),
]


def test_ratios_are_judged_by_their_targets() -> None:
    cells = rows(report(OUTCOMES, 1.0))
    by_way = {(row[0], row[2]): dict(zip(COLUMNS, row, strict=True)) for row in cells}
    fast = by_way["fast", "dense"]
    assert tuple(fast.values())[3:] == ("2", "50", "25x", "30x", "no", "3.2", "-")
    assert by_way["slow", "dense"]["reached"] == "yes"  # exactly the target
    assert by_way["fast", "api"]["theirs, ms"] == "not installed" and by_way["fast", "api"]["reached"] == "-"
    assert by_way["fast", "other"]["target"] == "-"
    assert by_way["broken", "WRONG: ids differ"]["reached"] == "no"


def test_the_documents_get_the_rows_with_a_target(tmp_path: Path) -> None:
    content = report(OUTCOMES[:2], 90.0)
    write_json(tmp_path / "results" / "benchmark.json", content)
    page = tmp_path / "docs" / "speed.md"
    page.parent.mkdir()
    page.write_text("# x\n<!-- bench: made by y -->\n<!-- end bench -->\nend\n")
    assert main(["--documents"], tmp_path) == 0
    text = page.read_text()
    assert text.count("| dense") == 2 and "| other" not in text and "took 1.5 minutes" in text
    assert text.startswith("# x\n<!-- bench: made by python -m scripts.benchmark --documents -->\n")
    assert "| other" in markdown(content)


def test_every_job_has_a_name_and_size_of_its_own() -> None:
    every = jobs()
    assert len({(j.name, j.size) for j in every}) == len(every)
    assert [j.name for j in jobs(["paste"])] == ["paste"] * 4
    with pytest.raises(ConfigError, match="did you mean 'paste'"):
        jobs(["past"])


@pytest.mark.parametrize("name", ["pq", "pq_files", "pairs", "ocfusion", "rap", "heuristic", "paste", "label_map"])
def test_jobs_are_right(name: str) -> None:
    """The smallest size of each; the others differ in numbers only."""
    one = next(job for job in jobs([name])[::-1] if "800x1333" not in job.size)
    assert race(one, Patience(0.0, 1, 1))["problem"] is None


def test_jobs_of_minutes_are_not_repeated_three_times() -> None:
    patience = Patience(seconds=2.0, turns=3, most=9, enough=30.0)
    assert in_turns([lambda: None], patience, time.perf_counter, [40.0]) == [[40.0]]
    assert len(in_turns([lambda: None], patience, time.perf_counter, [20.0])[0]) > 1
