"""Worker processes that end with this one, and a function over many items in them: in order, holding only a few."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import islice
from typing import Any, TypeVar

from panoptic_occ.common.errors import PanopticOccError

In = TypeVar("In")
Out = TypeVar("Out")

CHUNK = 32


def ordered_map(
    function: Callable[[In], Out],
    items: Iterable[In],
    total: int,
    processes: int | None = 1,
    title: str = "",
    chunk: int = CHUNK,
) -> Iterator[Out]:
    """``function(item)`` for all items, in their order; 1 process stays in this one, None takes one per core.

    ``function`` must be picklable and is sent to each worker once, items ``chunk`` at a time.  The first exception
    stops everything; PanopticOccError when a worker is killed.
    """
    from rich.console import Console  # takes a moment, and the workers of others do without
    from rich.progress import track

    # a worker costs seconds to start: there is no use for more of them than chunks
    processes = min(processes or available_cores(), -(-total // chunk))
    results = map(function, items) if processes <= 1 else _spread(function, items, processes, chunk)
    console = Console(stderr=True)
    yield from track(results, title, total, console=console, transient=True, disable=not console.is_terminal)


def available_cores() -> int:
    """Cores that this process may use, which on a cluster are fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def worker_pool(processes: int, initializer: Callable[..., None], *arguments: object) -> Iterator[ProcessPoolExecutor]:
    """``processes`` workers, which call ``initializer(*arguments)`` first and end with this process, even a killed one.

    Spawned, not forked: torch's threads, a GPU and a live progress display do not survive a fork.  Leaving the block
    with an exception drops the work that nobody began; Ctrl-C is for this process alone.  PanopticOccError when a
    worker is killed.
    """
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(processes, context, initializer=_start_worker, initargs=(initializer, arguments))
    try:
        with _interrupts_held():  # which the workers inherit: a task starts one, unless another has nothing to do
            for _ in range(processes):
                pool.submit(int)
        yield pool
    except BrokenProcessPool:
        raise PanopticOccError(
            f"one of {processes} worker processes was killed, often for lack of memory: use fewer processes; or it "
            'could not import your own script, which then needs `if __name__ == "__main__":` around what it runs'
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Ctrl-C waits until the block has ended."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _spread(function: Callable[[In], Out], items: Iterable[In], processes: int, chunk: int) -> Iterator[Out]:
    source = iter(items)
    work = pickle.dumps(function, protocol=pickle.HIGHEST_PROTOCOL)
    pending: deque[Future[bytes]] = deque()
    with worker_pool(processes, _set_work, work) as pool:
        while True:
            while len(pending) < 3 * processes and (batch := list(islice(source, chunk))):
                pending.append(pool.submit(_run, batch))
            if not pending:
                return
            yield from pickle.loads(pending.popleft().result())


_work: Callable[[Any], Any] | None = None  # of this worker


def _run(batch: list[Any]) -> bytes:
    assert _work is not None
    if torch := sys.modules.get("torch"):  # imported by the function's own module, or not needed at all
        torch.set_num_threads(1)
    # pickled here, because torch would hand every tensor over as a file that stays open
    return pickle.dumps([_work(item) for item in batch], protocol=pickle.HIGHEST_PROTOCOL)


def _set_work(work: bytes) -> None:
    global _work
    _work = pickle.loads(work)


def _start_worker(initializer: Callable[..., None], arguments: tuple[object, ...]) -> None:
    initializer(*arguments)
    # workers wait for work on a pipe that they hold open themselves: a killed parent would leave them there for ever
    threading.Thread(target=_die_with_parent, daemon=True).start()


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
