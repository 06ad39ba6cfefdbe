"""How fast a run trains, in the progress bar and in every logger."""

from __future__ import annotations

import time
from collections import deque
from typing import Any

import pytorch_lightning as pl
import torch

from panoptic_occ.training.module import PanopticModule


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
        self._ends.append((time.perf_counter(), 0))

    on_validation_end = on_train_start

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Counts the images of a step."""
        assert isinstance(pl_module, PanopticModule)
        self._ends.append((time.perf_counter(), len(batch)))
        (start, first), (end, _) = self._ends[0], self._ends[-1]
        images = (sum(count for _, count in self._ends) - first) * trainer.world_size
        name = f"{pl_module.stage}/images_per_s"
        pl_module.log(name, images / max(end - start, 1e-9), prog_bar=True, batch_size=len(batch))
        if pl_module.device.type == "cuda":
            memory = torch.cuda.max_memory_allocated(pl_module.device) / 2**30
            pl_module.log(f"{pl_module.stage}/gpu_memory_gb", memory, batch_size=len(batch))
