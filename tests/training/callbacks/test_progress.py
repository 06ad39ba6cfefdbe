"""What the progress bar says, and the lines in its place where there is no terminal."""

from __future__ import annotations

import io
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from rich.console import Console
from torch.utils.data import DataLoader

from panoptic_occ.training.callbacks import progress
from panoptic_occ.training.callbacks.progress import StageLines, StageProgress, stage_progress

PLAIN = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False, "enable_model_summary": False}


class Steps(pl.LightningModule):
    """A model of one number."""

    def __init__(self) -> None:
        super().__init__()
        self.number = torch.nn.Parameter(torch.ones(()))

    def training_step(self, batch: torch.Tensor, index: int) -> torch.Tensor:
        loss = self.number * batch.sum()
        self.log("base/loss", loss, prog_bar=True)
        return loss

    def test_step(self, batch: torch.Tensor, index: int) -> None:
        pass

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def train_dataloader(self) -> DataLoader[torch.Tensor]:
        return DataLoader(torch.ones(4))  # type: ignore[arg-type]

    test_dataloader = train_dataloader


@pytest.mark.filterwarnings("ignore")
def test_the_bar_counts_the_steps_of_the_stage() -> None:
    written = io.StringIO()
    bar = StageProgress(console_kwargs={"file": written, "force_terminal": True, "width": 120})
    pl.Trainer(max_steps=10, max_epochs=-1, callbacks=[bar], **PLAIN).fit(Steps())  # type: ignore[arg-type]
    assert "step 8 of 10" in written.getvalue() and "Epoch" not in written.getvalue()


@pytest.mark.filterwarnings("ignore")
def test_a_log_gets_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """A step takes ten seconds here, and a line is due every twenty."""
    clock = iter(range(0, 10_000, 10))
    monkeypatch.setattr(progress, "monotonic", lambda: next(clock))
    monkeypatch.setattr(progress, "EVERY", 20.0)
    caplog.set_level("INFO", progress.__name__)
    trainer = pl.Trainer(max_steps=6, max_epochs=-1, callbacks=[StageLines()], **PLAIN)  # type: ignore[arg-type]
    trainer.fit(Steps())
    said = [text for name, _, text in caplog.record_tuples if name == progress.__name__]
    assert [line.rpartition(",")[0] for line in said] == [
        "step 2 of 6, 0.1 a second, 0:00:40 left",
        "step 4 of 6, 0.1 a second, 0:00:20 left",
        "step 6 of 6, 0.1 a second, 0:00:00 left",
    ]
    assert said[0].endswith(", base/loss 0.9") and said[1].endswith(", base/loss 0.7")
    caplog.clear()
    trainer.test(Steps(), verbose=False)
    assert [text for name, _, text in caplog.record_tuples if name == progress.__name__] == [
        "batch 2 of 4, 0.1 a second, 0:00:20 left",
        "batch 4 of 4, 0.1 a second, 0:00:00 left",
    ]


def test_a_stage_that_goes_on_is_as_fast_as_it_is_now(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What was done before the start counts for the rest, not for the speed; and one process speaks for all."""
    clock = iter((0.0, 100.0, 200.0))
    monkeypatch.setattr(progress, "monotonic", lambda: next(clock))
    caplog.set_level("INFO", progress.__name__)
    trainer: Any = SimpleNamespace(
        training=True, global_step=500, max_steps=600, is_global_zero=True, progress_bar_metrics={}
    )
    lines = StageLines()
    lines.on_train_start(trainer, Steps())
    trainer.global_step = 550
    lines.on_train_batch_end(trainer)
    trainer.is_global_zero = False
    lines.on_train_batch_end(trainer)
    assert [text for *_, text in caplog.record_tuples] == ["step 550 of 600, 0.5 a second, 0:01:40 left"]


def test_a_bar_needs_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    for terminal, kind in ((True, StageProgress), (False, StageLines)):
        monkeypatch.setattr(progress, "get_console", lambda t=terminal: Console(force_terminal=t))
        assert type(stage_progress()) is kind
