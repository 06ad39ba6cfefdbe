"""Progress of a stage, which is counted in steps."""

from __future__ import annotations

from pytorch_lightning.callbacks import RichProgressBar


class StageProgress(RichProgressBar):
    """Lightning's bar over the steps between two checkpoints, with the steps of the stage in place of its epochs.

    Lightning would call them "Epoch 10/-2", because a stage has no number of epochs.
    """

    def _get_train_description(self, current_epoch: int) -> str:
        description = f"step {self.trainer.global_step} of {self.trainer.max_steps}"
        return f"{description:{len(self.validation_description)}}"
