"""A fit of a line that signals may end at any batch."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from panoptic_occ.training.callbacks.preemption import Preemption

STEPS = 6


class Line(pl.LightningModule):
    """Fits a line; ``at(place)`` is called before every batch with its name, as in "train 3"."""

    def __init__(self, at: Callable[[str], None]) -> None:
        super().__init__()
        self.line = nn.Linear(1, 1)
        self.at = at
        self.seen: list[str] = []

    def _batch(self, name: str) -> None:
        self.seen.append(name)
        self.at(name)

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        self._batch(f"train {self.global_step}")
        return self.line(batch).square().mean()

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self._batch(f"val {batch_idx}")

    def test_step(self, batch: Tensor, batch_idx: int) -> None:
        self._batch(f"test {batch_idx}")

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def send(number: int, place: str) -> Callable[[str], None]:
    """Sends this process a signal at a batch."""
    return lambda name: os.kill(os.getpid(), number) if name == place else None


def make_trainer(folder: Path, **settings: Any) -> pl.Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0}
    chosen = {"accelerator": "cpu", "devices": 1, "max_steps": STEPS, "max_epochs": -1, "callbacks": Preemption(folder)}
    return pl.Trainer(enable_checkpointing=False, default_root_dir=folder, **{**quiet, **chosen, **settings})


def loader(n: int = STEPS) -> DataLoader[Tensor]:
    return DataLoader(torch.ones(n, 1))  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No cluster, no signal from before, and afterwards the handlers of before."""
    for name in [name for name in os.environ if name.startswith(("SLURM_", "SUBMITIT_"))]:
        monkeypatch.delenv(name)
    Preemption.asked.clear()
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)}
    yield
    Preemption.asked.clear()
    for number, handler in before.items():
        assert signal.getsignal(number) == handler  # a later signal must not be noted by nobody
        signal.signal(number, handler)
