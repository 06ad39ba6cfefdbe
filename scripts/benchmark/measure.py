"""Times several ways to the same result against each other, after checking that it is the same.

All on one core, in one process, in turns.  Time is the processor's time of that process, which on one core of an idle
machine is the time on the clock, and which neighbours on a busy one do not lengthen much; jobs that use more cores or
processes go by the clock.  Memory is the kernel's own high-water mark of the process, which sees every allocator
(torch's included); it is reset before the call, and there is none where the kernel offers no reset.
"""

from __future__ import annotations

import ctypes
import gc
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from panoptic_occ.common.errors import PanopticOccError

PROCESS = Path("/proc/self")
SHORT = 0.02
"""Seconds that a contender runs in each turn at least: quick ones are called several times."""
MOST_CALLS = 8
QUICK = 0.5
SLOW = 3.0
"""Seconds from which the first call, the one whose result is compared, is timed too: warming up is little of it."""


class MismatchError(PanopticOccError, AssertionError):
    """A result that should be timed differs from its reference."""


@dataclass(frozen=True)
class StandIn:
    """Another way to the result.

    ``check(ours, theirs)`` raises MismatchError when the results differ.  ``target``: how many times faster ours must
    """

    name: str
    run: Callable[[], Any]
    check: Callable[[Any, Any], None]
    target: float | None = None


@dataclass(frozen=True)
class Contest:
    """Our way and the others, on inputs that are ready; ``absent``: (name, target) of packages that are not there.

    ``close`` is called in the end.
    """

    ours: Callable[[], Any]
    stand_ins: Sequence[StandIn]
    absent: Sequence[tuple[str, float | None]] = ()
    close: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class Job:
    """A row of the benchmark; ``prepare`` makes its inputs.

    ``cores``: None for as many as there are.  ``turns``: repetitions at least, for jobs that take long.
    """

    name: str
    about: str
    size: str
    prepare: Callable[[], Contest]
    cores: int | None = 1
    turns: int | None = None


@dataclass(frozen=True)
class Timing:
    """Milliseconds of one contender, and the memory in MB that a call takes beyond what was there before."""

    median: float
    least: float
    calls: int
    memory: float | None


@dataclass(frozen=True)
class Line:
    """A stand-in beside ours; times are None when it is not installed."""

    stand_in: str
    theirs: Timing | None
    target: float | None


@dataclass(frozen=True)
class Outcome:
    """What a job gave; ``problem``: why nothing was timed."""

    job: str
    about: str
    size: str
    ours: Timing | None = None
    lines: tuple[Line, ...] = field(default=())
    problem: str | None = None


@dataclass(frozen=True)
class Patience:
    """How long a job is repeated: ``turns`` at least, and more until ``seconds`` are over or ``most`` are done.

    No further turn after ``enough`` seconds.
    """

    seconds: float = 0.6
    turns: int = 3
    most: int = 25
    enough: float = 30.0


def race(job: Job, patience: Patience) -> Outcome:
    """Prepares, checks, then times a job; a result that differs from its reference is never timed."""
    if job.turns is not None:
        patience = replace(patience, turns=min(job.turns, patience.turns))
    clock = time.process_time if job.cores == 1 else time.perf_counter
    with cores(job.cores):
        contest = job.prepare()
        try:
            looks = checked(contest, clock)
            runs = [contest.ours, *(stand_in.run for stand_in in contest.stand_ins)]
            samples = in_turns(runs, patience, clock, [look.seconds for look in looks])
        except MismatchError as error:
            return Outcome(job.name, job.about, job.size, problem=str(error))
        finally:
            contest.close()
    timings = [
        Timing(1e3 * statistics.median(times), 1e3 * min(times), len(times), look.peak)
        for times, look in zip(samples, looks, strict=True)
    ]
    lines = [Line(s.name, timing, s.target) for s, timing in zip(contest.stand_ins, timings[1:], strict=True)]
    lines += [Line(name, None, target) for name, target in contest.absent]
    return Outcome(job.name, job.about, job.size, timings[0], tuple(lines))


@dataclass(frozen=True)
class Look:
    """The first call of a contender: its result, seconds, and the memory that it took in MB."""

    result: Any
    seconds: float
    peak: float | None


def checked(contest: Contest, clock: Callable[[], float] = time.process_time) -> list[Look]:
    """Runs everybody and compares the results.  MismatchError when one differs."""
    ours = first_look(contest.ours, clock)
    looks = [replace(ours, result=None)]
    for stand_in in contest.stand_ins:
        theirs = first_look(stand_in.run, clock)
        stand_in.check(ours.result, theirs.result)
        looks.append(replace(theirs, result=None))
    return looks


def first_look(run: Callable[[], Any], clock: Callable[[], float]) -> Look:
    """The first call; quick ones are called again for the memory, without what is set up once."""

    def timed() -> tuple[Any, float]:
        start = clock()
        result = run()
        return result, clock() - start

    (result, seconds), peak = high_water(timed)
    return Look(result, seconds, high_water(run)[1] if seconds < QUICK else peak)


def in_turns(
    runs: Sequence[Callable[[], Any]], patience: Patience, clock: Callable[[], float], first: Sequence[float]
) -> list[list[float]]:
    """Seconds of every call, contender by contender; each is called in every turn.  ``first``: seconds of the first
    calls, a turn that counts for those that are slow.
    """
    samples = [[seconds] if seconds >= SLOW else [] for seconds in first]
    done = int(any(samples))
    started = time.perf_counter() - done * sum(first)
    gc.collect()
    gc.disable()
    try:
        for turn in range(done, patience.most):
            elapsed = time.perf_counter() - started
            more = (turn < patience.turns and elapsed < patience.enough) or elapsed <= patience.seconds
            if all(samples) and not more:
                break
            for times, run in zip(samples, runs, strict=True):
                if more or not times:
                    times += _calls(run, clock)
    finally:
        gc.enable()
    return samples


def _calls(run: Callable[[], Any], clock: Callable[[], float]) -> list[float]:
    times: list[float] = []
    while not times or (sum(times) < SHORT and len(times) < MOST_CALLS):
        start = clock()
        run()
        times.append(clock() - start)
    return times


@contextmanager
def cores(count: int | None) -> Iterator[None]:
    """Keeps all threads of the process on one core (``count`` 1), or leaves them alone (None)."""
    before = torch.get_num_threads()
    threads = _threads() if count == 1 and hasattr(os, "sched_setaffinity") else []
    allowed = {thread: os.sched_getaffinity(thread) for thread in threads}
    if count is not None:
        torch.set_num_threads(count)
    try:
        for thread, mask in allowed.items():
            with suppress(OSError):  # a thread that has just ended
                os.sched_setaffinity(thread, {max(mask)})
        yield
    finally:
        for thread, mask in allowed.items():
            with suppress(OSError):
                os.sched_setaffinity(thread, mask)
        torch.set_num_threads(before)


def _threads() -> list[int]:
    tasks = PROCESS / "task"
    return [int(entry.name) for entry in tasks.iterdir()] if tasks.is_dir() else [0]


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
    lines = (PROCESS / "status").read_text().splitlines()
    return int(dict(line.split(":", 1) for line in lines)[key].split()[0]) / 1024
