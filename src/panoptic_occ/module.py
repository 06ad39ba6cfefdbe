"""The LightningModule: wires the network, a stage's schedule and the evaluation; it decides nothing itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor

from panoptic_occ.errors import NonFiniteLossError
from panoptic_occ.evaluation import Evaluation
from panoptic_occ.metrics.step_time import timed
from panoptic_occ.model import PanopticFPN
from panoptic_occ.schedule import StageSchedule
from panoptic_occ.seeding import stable_seed
from panoptic_occ.structures import Sample

Stage = Literal["base", "occlusion", "joint"]
"""Stage 1, stage 2, or both at once (``joint``: the occlusion module learns from annotations while the base trains)."""


class PanopticModule(pl.LightningModule):
    """Trains one stage of ``model`` by ``schedule`` and evaluates it; ``seed`` and the step give all randomness."""

    def __init__(
        self,
        model: PanopticFPN,
        stage: Stage,
        seed: int,
        schedule: StageSchedule | None = None,
        evaluation: Evaluation | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.stage: Stage = stage
        self.seed = seed
        self.schedule = schedule
        self.evaluation = evaluation

    def training_step(self, samples: Sequence[Sample], batch_idx: int) -> Tensor:
        """The total loss of the stage; a loss that is not finite stops the run."""
        drawn = "occlusion" if self.stage == "occlusion" else "base"  # a base draws the same when trained jointly
        step_seed = stable_seed(self.seed, drawn, self.global_step, self.global_rank)
        torch.manual_seed(step_seed)  # the samplers of anchors and proposals draw from the global generator
        losses: dict[str, Tensor] = {}
        if self.stage != "occlusion":
            losses |= self.model.base_losses(samples)
        if self.stage != "base":
            losses |= self.model.occlusion_losses(samples, torch.Generator().manual_seed(step_seed))
        total = torch.stack(list(losses.values())).sum()
        if not torch.isfinite(total):
            self._stop(losses, samples)
        self.log_dict({f"{self.stage}/{name}": loss.detach() for name, loss in losses.items()}, batch_size=len(samples))
        self.log(f"{self.stage}/loss", total.detach(), prog_bar=True, batch_size=len(samples))
        return total

    def _stop(self, losses: dict[str, Tensor], samples: Sequence[Sample]) -> None:
        terms = ", ".join(f"{name}={loss.item():.4g}" for name, loss in losses.items())
        images = ", ".join(str(s.image_id) for s in samples)
        raise NonFiniteLossError(
            f"the loss of stage '{self.stage}' is not finite at step {self.global_step}: {terms}; images {images}. "
            f"The last checkpoint is kept. Lower schedule.{self.stage}.lr, clip gradients "
            "(trainer.gradient_clip_val=10) or use trainer.precision=32-true"
        )

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """A fresh optimiser over what the stage trains."""
        if self.schedule is None:
            raise ValueError("this module was built for evaluation; it has no schedule to train by")
        trained = [p for p in self.model.parameters() if p.requires_grad]
        optimizer, scheduler = self.schedule.optimize(trained)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def test_step(self, samples: Sequence[Sample], batch_idx: int) -> None:
        """Fuses the detections of every image with every relation and updates the metrics."""
        if self.evaluation is None:
            raise ValueError("this module was built without an evaluation")
        asked = samples, self.evaluation.conf_thr, self.evaluation.requires
        if self.evaluation.timing:
            outputs, nanoseconds = timed(self.model.base_outputs, *asked)
            self.evaluation.base_took(nanoseconds, len(samples))
        else:
            outputs = self.model.base_outputs(*asked)
        for sample, output in zip(samples, outputs, strict=True):
            self.evaluation.update(sample, output)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Samples know how to move."""
        return [sample.to(device) for sample in batch]
