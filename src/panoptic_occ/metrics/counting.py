"""Metrics that are sums of integers: counts of things and of pairs, nanoseconds of a step."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, ParamSpec, TypeVar

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor
from torchmetrics import Metric

P = ParamSpec("P")
T = TypeVar("T")


def share(part: int, whole: int) -> float:
    """``part`` of ``whole``, NaN of nothing."""
    return part / whole if whole else float("nan")


class CountingMetric(Metric):
    """Sums of integers over images, whose order and distribution over processes does not change them; ``zeros``: the
    counts of no image, by the name of the state."""

    is_differentiable = False
    full_state_update = False

    def __init__(self, zeros: Mapping[str, np.ndarray], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for name, zero in zeros.items():
            self.add_state(name, torch.tensor(zero), dist_reduce_fx="sum")

    def set_dtype(self, dst_type: str | torch.dtype) -> CountingMetric:
        """Leaves the counts whole numbers of 64 bits: no other type holds them."""
        return self

    def add(self, counts: Mapping[str, np.ndarray]) -> None:
        """Adds the counts of an image, or of several."""
        for name, count in counts.items():
            state: Tensor = getattr(self, name)
            state += torch.from_numpy(count).to(state.device)

    def totals(self) -> dict[str, np.ndarray]:
        """The counts so far; inside ``compute``, those of all processes."""
        return {name: getattr(self, name).cpu().numpy() for name in self.metric_state}


class PairMetric(CountingMetric):
    """A vector of ``size`` counts of pairs of instances whose intersection is at least ``sig_ratio`` (OCFusion's rho)
    of one of the two masks."""

    size: ClassVar[int]
    counts: Int64[Tensor, " k"]

    def __init__(self, sig_ratio: float = 0.2, **kwargs: Any) -> None:
        super().__init__({"counts": np.zeros(self.size, dtype=np.int64)}, **kwargs)
        self.sig_ratio = sig_ratio


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


class ImageCount(CountingMetric):
    """How many images were seen."""

    higher_is_better = None

    images: Int64[Tensor, ""]

    def __init__(self, **kwargs: Any) -> None:
        super().__init__({"images": np.zeros((), dtype=np.int64)}, **kwargs)

    def update(self) -> None:
        """Adds one image."""
        self.images += 1

    def compute(self) -> int:
        """Those of all processes."""
        return int(self.images)


def _wait() -> None:
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
