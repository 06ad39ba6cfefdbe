"""What the progress bar says."""

from __future__ import annotations

import io

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from panoptic_occ.callbacks.progress import StageProgress


class Steps(pl.LightningModule):
    """A model of one number."""

    def __init__(self) -> None:
        super().__init__()
        self.number = torch.nn.Parameter(torch.ones(()))

    def training_step(self, batch: torch.Tensor, index: int) -> torch.Tensor:
        return self.number * batch.sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def train_dataloader(self) -> DataLoader[torch.Tensor]:
        return DataLoader(torch.ones(4))  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore")
def test_the_bar_counts_the_steps_of_the_stage() -> None:
    written = io.StringIO()
    bar = StageProgress(console_kwargs={"file": written, "force_terminal": True, "width": 120})
    settings = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False, "enable_model_summary": False}
    pl.Trainer(max_steps=10, max_epochs=-1, callbacks=[bar], **settings).fit(Steps())  # type: ignore[arg-type]
    assert "step 8 of 10" in written.getvalue() and "Epoch" not in written.getvalue()
