"""The time of a run by stage.  The library knows nothing of it: while a run is watched, its functions are wrapped."""

from __future__ import annotations

import functools
import inspect
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, ParamSpec, TypeVar
from unittest import mock

import torch

from panoptic_occ.network.panoptic_fpn import PanopticFPN

P = ParamSpec("P")
T = TypeVar("T")

LOADING, PAIRS, OCCLUSION, FUSION, METRICS = "loading", "pair statistics", "occlusion", "fusion", "metrics"
BACKWARD, OPTIMIZER, WRITING = "backward", "optimizer step", "writing"
CONFIGURATION = "configuration"

# Of a network, by the name of its part; what the exchange does beside calling the two branches is its own.
MODEL: dict[str, tuple[str, ...]] = {
    "backbone": ("forward",),
    "thing": ("losses", "detect", "positives"),
    "stuff": ("losses", "semantic_maps"),
    "exchange": ("losses", "outputs", "positives"),
    "occlusion": ("loss",),
}
ORDER = (CONFIGURATION, LOADING, *MODEL, PAIRS, FUSION, METRICS, BACKWARD, OPTIMIZER, WRITING)
"""All stages, as the data passes them."""


def finished_now() -> float:
    """Seconds, read when the work that was given to a GPU is done."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter()


class StageClock:
    """Seconds by stage.  While an inner stage runs, the outer one stands still, so the stages add up to the whole.

    ``seconds``: of the thread that made the clock.  ``background``: of all other threads, which overlap with it.
    """

    def __init__(self, now: Callable[[], float] = finished_now) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.background: dict[str, float] = defaultdict(float)
        self._now = now
        self._home = threading.get_ident()
        self._lock = threading.Lock()
        self._local = threading.local()

    def begin(self, stage: str) -> None:
        """Time counts for ``stage`` from now on."""
        self._charge()
        self._local.stack.append(stage)

    def end(self) -> None:
        """Time counts for the outer stage again."""
        self._charge()
        self._local.stack.pop()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """What happens inside counts for ``name``."""
        self.begin(name)
        try:
            yield
        finally:
            self.end()

    def timed(self, function: Callable[P, T], stage: str) -> Callable[P, T]:
        """``function``, counted for ``stage``."""

        @functools.wraps(function)
        def run(*args: P.args, **kwargs: P.kwargs) -> T:
            with self.stage(stage):
                return function(*args, **kwargs)

        return run

    def _charge(self) -> None:
        """Gives the time since the last change of this thread to the stage that it was in."""
        local, now = self._local, self._now()
        if not hasattr(local, "stack"):
            local.stack = []
        elif local.stack:
            totals = self.seconds if threading.get_ident() == self._home else self.background
            with self._lock:
                totals[local.stack[-1]] += now - local.since
        local.since = now


@contextmanager
def watched_model(clock: StageClock, model: PanopticFPN) -> Iterator[None]:
    """Until it is left, the parts of ``model`` count for the stages of ``clock``."""
    with ExitStack() as stack:
        for part, names in MODEL.items():
            for name in names:
                stack.enter_context(wrapped(clock, getattr(model, part), name, part))
        yield


def wrapped(clock: StageClock, owner: Any, name: str, stage: str) -> Any:
    """A context in which ``owner.name`` (of a class, a module or an object) counts for ``stage``."""
    replacement: Any = clock.timed(getattr(owner, name), stage)
    if isinstance(inspect.getattr_static(owner, name), staticmethod):
        replacement = staticmethod(replacement)
    return mock.patch.object(owner, name, replacement)
