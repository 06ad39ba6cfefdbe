"""A sweep (-m): what became of each job, and the table at its end.

Every job keeps a record in its folder of the sweep, so that the table does not depend on the launcher:

    runs/sweeps/<time>_<id>/<number>/job.json    the words of the job, its state, the run, PQ, and the error if any
    runs/sweeps/<time>_<id>/<number>/error.txt   the traceback of a job that failed
    runs/sweeps/<time>_<id>/sweep.png            PQ against the settings of the jobs, where these are one or two
    runs/sweeps/<time>_<id>/.submitit/           logs of SLURM jobs

A job that fails does not stop the others, and the same command runs only what is missing, because finished runs are
skipped.  A job that was killed cannot say so; its state is SLURM's.
"""

from __future__ import annotations

import json
import logging
import math
import re
import secrets
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.experimental.callback import Callback
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from panoptic_occ.common.distributed import is_main_process
from panoptic_occ.common.errors import PanopticOccError, SweepError
from panoptic_occ.common.files import write_json, write_text

if TYPE_CHECKING:
    from omegaconf import DictConfig

log = logging.getLogger(__name__)

RECORD = "job.json"
SEARCH = "optimization_results.yaml"  # what Hydra's Optuna sweeper leaves in the folder of the sweep
POLL = 5.0  # seconds between two looks at jobs that still run when the launcher has given up
DONE = ("finished", "skipped", "tried")


@dataclass(frozen=True)
class Job:
    """One job of a sweep: its number, the words of its command, and what became of it.

    ``state``: running, finished, skipped (it was finished before), tried (``trainer.fast_dev_run``, of
    which nothing is kept), failed, stopped (by a signal), or SLURM's word for
    how it ended.  ``run``: folder of its results.  ``score``: PQ, a fraction.  ``log``: where the whole error stands.
    """

    number: int
    words: tuple[str, ...]
    state: str
    minutes: float | None = None
    run: str | None = None
    score: float | None = None
    error: str | None = None
    log: str | None = None


class RememberSweep(Callback):
    """Hydra callback (conf/config.yaml): remembers the folder of the sweep, which Hydra tells nobody else."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """The folder is known from here on; what an earlier sweep has left in it does not count."""
        folder = Path(str(config.hydra.sweep.dir))
        for record in folder.glob(f"*/{RECORD}"):
            record.unlink()
        (folder / SEARCH).unlink(missing_ok=True)
        _sweep.set((folder, frozenset(_pickles(folder))))


_sweep: ContextVar[tuple[Path, frozenset[Path]] | None] = ContextVar("sweep", default=None)
_notes: ContextVar[dict[str, Any] | None] = ContextVar("notes", default=None)


def new_id() -> str:
    """Four hex digits that tell two sweeps of the same second apart (``sweep_id`` in conf/config.yaml)."""
    return secrets.token_hex(2)


def note(**values: Any) -> None:
    """Adds to the record of the job that this process runs, if it is one of a sweep: ``run``, ``score``, ``state``."""
    notes = _notes.get()
    if notes is not None:
        notes.update(values)


@contextmanager
def recorded_job(folder: Path, number: int, words: Sequence[str], *, raises: bool) -> Iterator[None]:
    """Runs a job of a sweep and keeps its record in ``folder``.

    Its error goes into the record; it is raised only where ``raises`` is set (debug=true), so that the others go on.
    """
    job = Job(number, tuple(words), "running")
    notes: dict[str, Any] = {}
    token = _notes.set(notes)
    start = time.monotonic()

    def save(state: str, **more: Any) -> None:
        if is_main_process():
            minutes = (time.monotonic() - start) / 60
            record = replace(job, **{**notes, "state": state, "minutes": minutes, **more})
            write_json(folder / RECORD, asdict(record), indent=2)

    save("running")
    try:
        yield
        save(notes.get("state", "finished"))
    except Exception as error:
        if is_main_process():
            write_text(folder / "error.txt", traceback.format_exc())
        save("failed", error=_in_one_line(error), log=str(folder / "error.txt"))
        if raises:
            raise
        log.error("job %s (%s) failed: %s", number, " ".join(words), _in_one_line(error))
    except BaseException as error:
        save("stopped", error=_in_one_line(error))
        raise
    finally:
        _notes.reset(token)


@contextmanager
def sweep_table() -> Iterator[None]:
    """Runs a sweep, and ends it with its table and with SweepError when a job has no result.

    A launcher gives up when the first job was killed; the jobs that SLURM still runs are then waited for.
    """
    _sweep.set(None)
    problem: Exception | None = None
    try:
        yield
    except Exception as error:
        problem = error
    sweep = _sweep.get()
    jobs = collect(*sweep, wait=problem is not None) if sweep else []
    failed = [job for job in jobs if job.state not in DONE]
    # with debug=true it is the error of a job
    if problem is not None and (not failed or any(job.error == _in_one_line(problem) for job in failed)):
        raise problem
    if sweep is None or not jobs:
        return
    from panoptic_occ.common.tables import to_text  # takes a moment, which commands without a sweep need not wait

    lines = [*details(jobs), *best(jobs, sweep[0])]
    Console(soft_wrap=True, highlight=False).print("", to_text(to_table(jobs)), *lines, sep="\n", markup=False)
    draw(jobs, sweep[0] / "sweep.png")
    if failed:
        first = failed[0]
        raise SweepError(
            f"{len(failed)} of {len(jobs)} jobs have no result, the first: {first.error or first.state} "
            f"(log: {first.log}); the same command runs what is missing"
        ) from problem


def collect(sweep: Path, before: Set[Path] = frozenset(), *, wait: bool = False) -> list[Job]:
    """All jobs of the sweep in a folder, in order.

    ``before``: submitted jobs of an earlier sweep in the same folder.  ``wait``: until SLURM has no job left.
    """
    submitted = _submitted(sweep, before)
    left = submitted
    while wait and (left := [entry for entry in left if not entry.job.done()]):
        log.info("%s of %s jobs are still in the queue", len(left), len(submitted))
        time.sleep(POLL)
    jobs = {}
    for file in sweep.glob(f"*/{RECORD}"):
        values = json.loads(file.read_text(encoding="utf-8"))
        job = Job(**{**values, "words": tuple(values["words"])})
        jobs[job.number] = job
    for entry in submitted:
        job = jobs.get(entry.number, Job(entry.number, entry.words, "queued"))
        if job.state in ("queued", "running", "stopped"):  # SLURM knows better than what was written before the end
            jobs[entry.number] = entry.ended(job)
    return [jobs[number] for number in sorted(jobs)]


@dataclass(frozen=True)
class _Submitted:
    """A job of a sweep that SLURM got; ``job``: submitit's view of it."""

    number: int
    words: tuple[str, ...]
    job: Any

    def ended(self, record: Job) -> Job:
        """``record`` with how the job ended, if it has."""
        file = Path(self.job.paths.stderr)
        if not self.job.done():
            return replace(record, log=str(file))
        text = file.read_text(encoding="utf-8", errors="replace") if file.exists() else ""
        return replace(record, state=self.job.state.lower(), error=last_error(text), log=str(file))


def _pickles(sweep: Path) -> list[Path]:
    return sorted((sweep / ".submitit").glob("*/*_submitted.pkl"))


def _submitted(sweep: Path, before: Set[Path]) -> list[_Submitted]:
    pickles = [path for path in _pickles(sweep) if path not in before]
    if not pickles:
        return []
    import submitit
    from submitit.core.utils import DelayedSubmission

    submitted = []
    for path in pickles:
        words, _, number, *_ = DelayedSubmission.load(path).args
        job: Any = submitit.SlurmJob(folder=sweep / ".submitit" / "%j", job_id=path.name.removesuffix("_submitted.pkl"))
        submitted.append(_Submitted(int(number), tuple(words), job))
    return submitted


def to_table(jobs: Sequence[Job]) -> Table:
    """The states of all jobs, with a column for every word in which they differ."""
    table = Table(title=f"sweep: {_counts(jobs)}", box=box.MARKDOWN)
    settings = [dict(word.lstrip("+").partition("=")[::2] for word in job.words) for job in jobs]
    keys = dict.fromkeys(key for values in settings for key in values)
    varied = [key for key in keys if len({values.get(key) for values in settings}) > 1]
    for name in ("job", *varied, "state", "minutes", "PQ"):
        table.add_column(Text(name), justify="right" if name in ("job", "minutes", "PQ") else "left", no_wrap=True)
    for job, values in zip(jobs, settings, strict=True):
        minutes = "" if job.minutes is None else f"{job.minutes:.1f}"
        score = "" if job.score is None else f"{100 * job.score:.2f}"
        table.add_row(str(job.number), *(Text(values.get(key, "")) for key in varied), job.state, minutes, score)
    return table


def draw(jobs: Sequence[Job], path: Path) -> bool:
    """A picture of PQ against the one or two settings in which the jobs differ; False when it is another number."""
    from panoptic_occ.visuals.grid_plot import GridPoint, save_grid  # loads matplotlib

    points = [
        GridPoint("all runs", dict(word.split("=", 1) for word in job.words), job.score)
        for job in jobs
        if job.score is not None and not math.isnan(job.score)
    ]
    return save_grid(path, points, "all runs")


def details(jobs: Sequence[Job]) -> list[Text]:
    """One line for every job without a result: why, and where to read on."""
    return [
        Text(f"job {job.number} {job.state}: {job.error or 'it left no message'} (log: {job.log})")
        for job in jobs
        if job.state not in DONE
    ]


def best(jobs: Sequence[Job], sweep: Path) -> list[Text]:
    """What a search (Optuna) has found, and how far to trust it; nothing for other sweeps."""
    scored = [job for job in jobs if job.score is not None]
    if not scored or not (sweep / SEARCH).exists():
        return []
    winner = max(scored, key=lambda job: job.score or 0.0)
    words = " ".join(word for word in winner.words if word.startswith(("fusion.", "occlusion.")))
    return [
        Text(f"best of {len(jobs)} trials: job {winner.number} with PQ {100 * (winner.score or 0.0):.2f}: {words}"),
        Text(
            "This PQ is optimistic: the values were chosen on the images that it is measured on. Report the PQ that "
            "they reach on other images, or with another seed."
        ),
    ]


def score_of(metrics: Mapping[str, Any]) -> float:
    """The number that a sweep compares: PQ of the run's method, at the best point if there is a grid; NaN without."""
    from panoptic_occ.common.tables import SEPARATOR  # takes a moment, which commands without a sweep need not wait

    method, rows = str(metrics["method"]), metrics["relations"]
    of_method = [row for name, row in rows.items() if name.partition(SEPARATOR)[0] == method]
    scores = [float(row["PQ"]) for row in of_method if row.get("PQ") is not None]
    return max(scores, default=float("nan"))


def last_error(text: str) -> str | None:
    """The last line of a log that names an error or a stop, else its last line; None when it is empty."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    named = re.compile(r"(error:|[\w.]*(Error|Exception|Interrupt)\b)|.*: SIG\w+: stopped (?!.*queued again)")
    errors = [line for line in lines if named.match(line)]
    last = (errors or lines)[-1:]
    return re.sub(r"^error: |^.* (?=SIG\w+: stopped)", "", last[0]) if last else None


def _counts(jobs: Sequence[Job]) -> str:
    states = [job.state for job in jobs]
    return ", ".join(
        f"{states.count(state)} {state}" for state in dict.fromkeys(["finished", "skipped", "failed", *states])
    )


def _in_one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, PanopticOccError) else f"{type(error).__name__}: {text}"
