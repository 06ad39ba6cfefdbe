"""How long a step takes, averaged over images."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from panoptic_occ.metrics.counting import CountingMetric

P = ParamSpec("P")
T = TypeVar("T")


def timed(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> tuple[T, int]:
    """What ``function`` returns and the nanoseconds that it took; a GPU finishes its work before and after."""
    _wait()
    start = time.perf_counter_ns()
    result = function(*args, **kwargs)
    _wait()
    return result, time.perf_counter_ns() - start


class StepTime(CountingMetric):
    """Mean milliseconds of a step over all images but the first (or the first batch) of every process, which warms up;
    NaN without any."""

    higher_is_better = False

    nanoseconds: Int64[Tensor, ""]
    count: Int64[Tensor, ""]

    def __init__(self, **kwargs: Any) -> None:
        zero = np.zeros((), dtype=np.int64)
        super().__init__({"nanoseconds": zero, "count": zero}, **kwargs)
        self.warm = False

    def update(self, nanoseconds: int, images: int = 1) -> None:
        """Adds one image, or the images of a batch that were computed at once."""
        if self.warm:
            self.nanoseconds += nanoseconds
            self.count += images
        self.warm = True

    def compute(self) -> float:
        """The mean in milliseconds."""
        count = int(self.count)
        return int(self.nanoseconds) / count / 1e6 if count else float("nan")


def _wait() -> None:
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
