"""Progress of a stage, which is counted in steps: a bar on a terminal, now and then a line in a log."""

from __future__ import annotations

import logging
from datetime import timedelta
from time import monotonic
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ProgressBar, RichProgressBar
from rich import get_console

log = logging.getLogger(__name__)

EVERY = 60.0  # seconds between two lines


def stage_progress() -> ProgressBar:
    """What suits the place where the output goes."""
    return StageProgress() if get_console().is_terminal else StageLines()


class StageProgress(RichProgressBar):
    """Lightning's bar over the steps between two checkpoints, with the steps of the stage in place of its epochs.

    Lightning would call them "Epoch 10/-2", because a stage has no number of epochs.
    """

    def _get_train_description(self, current_epoch: int) -> str:
        description = f"step {self.trainer.global_step} of {self.trainer.max_steps}"
        return f"{description:{len(self.validation_description)}}"


class StageLines(ProgressBar):
    """A log line at most every ``EVERY`` seconds, as files and the logs of a cluster's jobs need it."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Counts from here: a stage may go on in its middle."""
        self._begin(trainer.global_step)

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Says which step of how many this was, how fast they are, how long the rest takes, and the losses."""
        self._say(trainer, "step", trainer.global_step, int(trainer.max_steps))

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Counts the batches of an evaluation from here."""
        self._begin(0)

    def on_test_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """The same for an evaluation."""
        self._say(trainer, "batch", batch_idx + 1, int(trainer.num_test_batches[dataloader_idx]))

    def _begin(self, done: int) -> None:
        self._first, self._start = done, monotonic()
        self._said = self._start

    def _say(self, trainer: pl.Trainer, unit: str, done: int, total: int) -> None:
        now = monotonic()
        if now - self._said < EVERY or not trainer.is_global_zero:
            return
        self._said = now
        pace = (done - self._first) / (now - self._start)
        left = timedelta(seconds=round((total - done) / max(pace, 1e-9)))
        metrics = "".join(f", {name} {float(value):.3g}" for name, value in trainer.progress_bar_metrics.items())
        log.info("%s %d of %d, %.3g a second, %s left%s", unit, done, total, pace, left, metrics)
