"""Times several ways to the same result against each other, after checking that it is the same.

All on one core, in one process, in turns.  Time is the processor's, which busy neighbours hardly lengthen; jobs on more
cores or processes go by the clock.  Memory is the kernel's own high-water mark of the process, which sees every
allocator; it is reset before the call, and there is none where the kernel offers no reset.
"""

from __future__ import annotations

import ctypes
import gc
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from panoptic_occ.common.errors import PanopticOccError

PROCESS = Path("/proc/self")
SHORT, MOST_CALLS = 0.02, 8  # a contender runs for so many seconds in each turn, or is called so many times
QUICK = 0.5  # seconds: what takes less is called once more for its memory
SLOW = 3.0  # seconds from which the first call counts: warming up is little of it

Clock = Callable[[], float]


class MismatchError(PanopticOccError, AssertionError):
    """A result that should be timed differs from its reference."""


@dataclass(frozen=True)
class StandIn:
    """Another way to the result, which ``check(ours, theirs)`` compares.  ``target``: how much faster ours must be."""

    name: str
    run: Callable[[], Any] | None  # None: its package is not installed
    check: Callable[[Any, Any], None]  # raises MismatchError
    target: float | None = None


@dataclass(frozen=True)
class Contest:
    """Our way and the others, on inputs that are ready.  ``close`` is called in the end."""

    ours: Callable[[], Any]
    stand_ins: Sequence[StandIn]
    close: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class Job:
    """A row of the benchmark; ``cores``: None for all; ``turns``: repetitions at least, for jobs that take long."""

    name: str
    about: str
    size: str
    prepare: Callable[[], Contest]
    cores: int | None = 1
    turns: int | None = None


@dataclass(frozen=True)
class Patience:
    """``turns`` repetitions, but none after ``enough`` seconds; then up to ``most`` until ``seconds`` are over."""

    seconds: float = 0.6
    turns: int = 3
    most: int = 25
    enough: float = 30.0


def race(job: Job, patience: Patience) -> dict[str, Any]:
    """Prepares, checks, then times a job: milliseconds, and the MB that a call takes beyond its inputs.  A result that
    differs from its reference is never timed; ``problem`` says so."""
    outcome: dict[str, Any] = {"job": job.name, "about": job.about, "size": job.size, "ours": None, "lines": []}
    if job.turns is not None:
        patience = replace(patience, turns=min(job.turns, patience.turns))
    clock = time.process_time if job.cores == 1 else time.perf_counter
    with cores(job.cores):
        contest = job.prepare()
        others = [stand_in for stand_in in contest.stand_ins if stand_in.run]
        runs = [contest.ours, *(stand_in.run for stand_in in others if stand_in.run)]
        try:
            ours, *first = first_call(contest.ours, clock)
            calls: list[Any] = [first]
            for stand_in, run in zip(others, runs[1:], strict=True):
                theirs, *first = first_call(run, clock)
                stand_in.check(ours, theirs)
                calls.append(first)
            del ours, theirs
            samples = in_turns(runs, patience, clock, [seconds for seconds, _ in calls])
        except MismatchError as error:
            return {**outcome, "problem": str(error)}
        finally:
            contest.close()
    timings = iter(
        {"median": 1e3 * statistics.median(times), "least": 1e3 * min(times), "calls": len(times), "memory": peak}
        for times, (_, peak) in zip(samples, calls, strict=True)
    )
    outcome["ours"] = next(timings)
    for stand_in in contest.stand_ins:
        theirs = next(timings) if stand_in.run else None
        outcome["lines"].append({"stand_in": stand_in.name, "theirs": theirs, "target": stand_in.target})
    return {**outcome, "problem": None}


def first_call(run: Callable[[], Any], clock: Clock) -> tuple[Any, float, float | None]:
    """Result, seconds and MB; quick ones are called again for the memory, without what is set up once."""

    def timed() -> tuple[Any, float]:
        start = clock()
        result = run()
        return result, clock() - start

    (result, seconds), peak = high_water(timed)
    return result, seconds, high_water(run)[1] if seconds < QUICK else peak


def in_turns(
    runs: Sequence[Callable[[], Any]], patience: Patience, clock: Clock, first: Sequence[float]
) -> list[list[float]]:
    """Seconds of every call, contender by contender; ``first``: of the first calls, which count for slow contenders."""
    samples = [[seconds] if seconds >= SLOW else [] for seconds in first]
    done = int(any(samples))
    start = time.perf_counter() - done * sum(first)
    gc.collect()
    gc.disable()
    try:
        for turn in range(done, patience.most):
            elapsed = time.perf_counter() - start
            more = (turn < patience.turns and elapsed < patience.enough) or elapsed <= patience.seconds
            if all(samples) and not more:
                break
            for times, run in zip(samples, runs, strict=True):
                calls: list[float] = []
                while (more or not times) and sum(calls) < SHORT and len(calls) < MOST_CALLS:
                    began = clock()
                    run()
                    calls.append(clock() - began)
                times += calls
    finally:
        gc.enable()
    return samples


@contextmanager
def cores(count: int | None) -> Iterator[None]:
    """Keeps all threads of the process on one core (``count`` 1), or leaves them alone (None)."""
    before, tasks, masks = torch.get_num_threads(), PROCESS / "task", {}
    if count == 1 and hasattr(os, "sched_setaffinity") and tasks.is_dir():
        masks = {int(thread.name): os.sched_getaffinity(int(thread.name)) for thread in tasks.iterdir()}
    try:
        torch.set_num_threads(count or before)
        for thread, mask in masks.items():
            with suppress(OSError):  # a thread that has just ended
                os.sched_setaffinity(thread, {max(mask)})
        yield
    finally:
        for thread, mask in masks.items():
            with suppress(OSError):
                os.sched_setaffinity(thread, mask)
        torch.set_num_threads(before)


def high_water(run: Callable[[], Any]) -> tuple[Any, float | None]:
    """What ``run`` returns, and MB by which the memory of the process grew at most meanwhile (None: unknown here)."""
    gc.collect()
    with suppress(OSError, AttributeError):  # give freed memory back, or ``run`` would use it unseen
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    try:
        (PROCESS / "clear_refs").write_text("5")
        before = _status("VmRSS")
    except (OSError, KeyError):
        return run(), None
    result = run()
    return result, max(0.0, _status("VmHWM") - before)


def _status(key: str) -> float:
    lines = dict(line.split(":", 1) for line in (PROCESS / "status").read_text().splitlines())
    return int(lines[key].split()[0]) / 1024
