"""How far a stage is, which is counted in steps, and how fast: a bar on a terminal, now and then a line in a log."""

from __future__ import annotations

import logging
from collections import deque
from datetime import timedelta
from time import monotonic, perf_counter
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ProgressBar, RichProgressBar
from rich import get_console

from panoptic_occ.training.module import PanopticModule

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
        """Counts from here: a stage may go on in its middle, and an evaluation has steps of its own."""
        self._first = trainer.global_step if trainer.training else 0
        self._start = self._last_line = monotonic()

    on_test_start = on_train_start

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Says which step of how many this was, how fast they are, how long the rest takes, and the losses."""
        self._say(trainer, "step", trainer.global_step, int(trainer.max_steps))

    def on_test_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """The same for an evaluation."""
        self._say(trainer, "batch", batch_idx + 1, int(trainer.num_test_batches[dataloader_idx]))

    def _say(self, trainer: pl.Trainer, unit: str, done: int, total: int) -> None:
        now = monotonic()
        if now - self._last_line < EVERY or not trainer.is_global_zero:
            return
        self._last_line = now
        pace = (done - self._first) / (now - self._start)
        left = timedelta(seconds=round((total - done) / max(pace, 1e-9)))
        metrics = "".join(f", {name} {float(value):.3g}" for name, value in trainer.progress_bar_metrics.items())
        log.info("%s %d of %d, %.3g a second, %s left%s", unit, done, total, pace, left, metrics)


class Throughput(pl.Callback):
    """Logs ``<stage>/images_per_s`` over the last ``window`` steps, of all processes together, and on a GPU
    ``<stage>/gpu_memory_gb``, the most that its tensors have taken so far.

    What a step waits for (data, checkpoints) counts; a step of ours ends when its loss is known, also on a GPU.
    After a validation the clock starts anew.
    """

    def __init__(self, window: int = 20) -> None:
        self._ends: deque[tuple[float, int]] = deque(maxlen=window + 1)
        """When each of the last steps ended, and its images; the first entry only says when the second step began."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Starts the clock."""
        self._ends.clear()
        self._ends.append((perf_counter(), 0))

    on_validation_end = on_train_start

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Counts the images of a step."""
        assert isinstance(pl_module, PanopticModule)
        self._ends.append((perf_counter(), len(batch)))
        (start, first), (end, _) = self._ends[0], self._ends[-1]
        images = (sum(count for _, count in self._ends) - first) * trainer.world_size
        name = f"{pl_module.stage}/images_per_s"
        pl_module.log(name, images / max(end - start, 1e-9), prog_bar=True, batch_size=len(batch))
        if pl_module.device.type == "cuda":
            memory = torch.cuda.max_memory_allocated(pl_module.device) / 2**30
            pl_module.log(f"{pl_module.stage}/gpu_memory_gb", memory, batch_size=len(batch))
