"""Runs what is missing of a table: one Hydra multirun over the seeds of a row, each in a process of its own.

A row that fails leaves the others alone; its log stays beside the runs, and the next call tries it again.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from panoptic_occ.commands.sweeps import last_error
from panoptic_occ.runs.folders import predictions_folder
from panoptic_occ.runs.predictions import PredictionFiles
from scripts.tables.plan import PlannedRow, Run, waves


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
        """Runs the seeds of a row that are not done."""
        left = [run for run in planned.runs if run.done is None]
        folder = self.logs / planned.row.key
        folder.mkdir(parents=True, exist_ok=True)
        log = folder / "log.txt"
        start = time.monotonic()
        with log.open("w", encoding="utf-8") as output:
            status = subprocess.run(
                command(planned, left, folder, self.words), stdout=output, stderr=subprocess.STDOUT, check=False
            ).returncode
        minutes = (time.monotonic() - start) / 60
        missing = [str(run.seed) for run in left if run.done is None]
        if not missing:
            return Outcome(planned, minutes)
        reason = last_error(log.read_text(encoding="utf-8", errors="replace")) if status else None
        reason = reason or f"ended with status {status} and without the result"
        return Outcome(planned, minutes, f"seed {', '.join(missing)} failed", f"{reason} (log: {log})")


def run_missing(rows: Sequence[PlannedRow], launcher: Launcher, tell: Callable[[Outcome], None]) -> None:
    """Runs every row that is not done, in an order in which bases and modules are trained once and shared.

    ``tell`` hears of each row when its command has ended.
    """
    detections = {row.row.backbone: row.detections for row in rows if row.detections}
    _run(list(detections.values()), launcher, tell)
    ready = [row for row in rows if row.detections is None or _done(row.detections)]
    _run(ready, launcher, tell)
    for row in rows:
        if row not in ready:
            tell(Outcome(row, 0.0, "not made", "the run whose detections it fuses has failed"))


def _run(rows: Sequence[PlannedRow], launcher: Launcher, tell: Callable[[Outcome], None]) -> None:
    for wave in waves([row for row in rows if not _done(row)]):
        with ThreadPoolExecutor(launcher.at_once) as pool:
            for outcome in pool.map(launcher, wave):
                tell(outcome)


def _done(planned: PlannedRow) -> bool:
    return all(run.done is not None for run in planned.runs)


def command(planned: PlannedRow, runs: Sequence[Run], folder: Path, launcher: Sequence[str] = ()) -> list[str]:
    """The command line that makes ``runs``; without the experiment's own sweep, which Hydra would add."""
    words = list(planned.words)
    if planned.command == "train":
        # a folder of the same name that is not done was made with other settings; its weights lie elsewhere and stay
        words += ["seed=" + ",".join(str(run.seed) for run in runs), "force=true"]
    else:
        # the run's own configuration says that it stores its predictions; that is done
        words += ["run=" + ",".join(quoted(run.folder.path) for run in runs), "save_predictions=false"]
        if planned.same_predictions and all(has_predictions(run) for run in runs):
            words.append("saved=true")
    own = ["hydra.sweeper.params=null", f"hydra.sweep.dir={quoted(folder)}"]
    return [sys.executable, "-m", f"panoptic_occ.{planned.command}", "--multirun", *words, *own, *launcher]


def has_predictions(run: Run) -> bool:
    """Whether the predictions of the run's base are stored."""
    return PredictionFiles(predictions_folder(run.config)).base.exists()


def quoted(path: Path) -> str:
    """A path as a value that Hydra reads as one string, whatever is in it."""
    text = str(path.absolute()).replace("\\", "\\\\").replace("'", "\\'")
    return f"'{text}'"
