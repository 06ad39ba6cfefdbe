"""Runs what is missing of a table: one Hydra multirun over the seeds of a row, each in a process of its own.

A row that fails leaves the others alone; its log stays beside the runs, and the next call tries it again.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from scripts.suite import Run, last_error
from scripts.tables.plan import PlannedRow, waves


@dataclass(frozen=True)
class Outcome:
    """What came of the command of a row: its wall time, what is missing (None: nothing), and why."""

    planned: PlannedRow
    minutes: float
    problem: str | None = None
    reason: str = ""


@dataclass(frozen=True)
class Launcher:
    """How commands are run: ``words`` for Hydra's launcher, ``logs`` for their output, ``at_once`` rows at a time."""

    logs: Path
    words: tuple[str, ...] = ()
    at_once: int = 1

    def __call__(self, planned: PlannedRow) -> Outcome:
        """Runs the seeds of a row that have no results."""
        runs = planned.missing
        folder = self.logs / planned.row.key
        folder.mkdir(parents=True, exist_ok=True)
        log = folder / "log.txt"
        start = time.monotonic()
        with log.open("w", encoding="utf-8") as output:
            line = command(planned, runs, folder, self.words)
            status = subprocess.run(line, stdout=output, stderr=subprocess.STDOUT, check=False).returncode
        minutes = (time.monotonic() - start) / 60
        failures = [str(run.config.seed) for run in runs if run.results is None]
        if not failures:
            return Outcome(planned, minutes)
        error = last_error(log.read_text(encoding="utf-8", errors="replace")) if status else None
        reason = f"{error or f'ended with status {status} and without the result'} (log: {log})"
        return Outcome(planned, minutes, f"seed {', '.join(failures)} failed", reason)


def run_missing(rows: Sequence[PlannedRow], launcher: Launcher, tell: Callable[[Outcome], None]) -> None:
    """Runs every row without results, in an order in which bases and modules are trained once and shared; ``tell``
    hears of each row when its command has ended."""

    def run(rows: Iterable[PlannedRow]) -> None:
        for wave in waves(planned for planned in rows if planned.missing):
            with ThreadPoolExecutor(launcher.at_once) as pool:
                for outcome in pool.map(launcher, wave):
                    tell(outcome)

    run({planned.row.backbone: planned.detections for planned in rows if planned.detections}.values())
    ready = [planned for planned in rows if planned.detections is None or not planned.detections.missing]
    run(ready)
    for planned in rows:
        if planned not in ready:
            tell(Outcome(planned, 0.0, "not made", "the run whose detections it fuses has failed"))


def command(planned: PlannedRow, runs: Sequence[Run], folder: Path, launcher: Sequence[str] = ()) -> list[str]:
    """The command line that makes ``runs``; without the experiment's own sweep, which Hydra would add."""
    words = list(planned.words)
    if planned.command == "train":
        # a folder of the same name without results was made with other settings; its weights lie elsewhere and stay
        words += ["seed=" + ",".join(str(run.config.seed) for run in runs), "force=true"]
    else:
        # the run's own configuration says that it stores its predictions; that is done
        words += ["run=" + ",".join(quoted(run.folder) for run in runs), "save_predictions=false"]
        if planned.same_predictions and all(run.has_predictions() for run in runs):
            words.append("saved=true")
    sweep = ["hydra.sweeper.params=null", f"hydra.sweep.dir={quoted(folder)}"]
    return [sys.executable, "-m", f"panoptic_occ.{planned.command}", "--multirun", *words, *sweep, *launcher]


def quoted(path: Path) -> str:
    """A path as a value that Hydra reads as one string, whatever is in it."""
    return "'" + str(path.absolute()).replace("\\", "\\\\").replace("'", "\\'") + "'"
