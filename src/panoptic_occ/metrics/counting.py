"""Metrics that count."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor
from torchmetrics import Metric


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
