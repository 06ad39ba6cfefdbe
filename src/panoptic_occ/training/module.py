"""The LightningModule: wires the network, a stage's schedule and the evaluation; it decides nothing itself."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor

from panoptic_occ.common.distributed import all_gather, all_reduce_mean, is_main_process
from panoptic_occ.common.errors import NonFiniteLossError
from panoptic_occ.common.seeding import stable_seed
from panoptic_occ.evaluation.evaluator import Evaluation
from panoptic_occ.metrics.counting import timed
from panoptic_occ.network.panoptic_fpn import PanopticFPN
from panoptic_occ.structures.base_output import BaseOutput
from panoptic_occ.structures.sample import Sample
from panoptic_occ.training.schedule import StageSchedule

log = logging.getLogger(__name__)

PROCESSES = "processes"  # key of a checkpoint
VALIDATED = (*(f"{score}{group}" for group in ("", "_th", "_st") for score in ("PQ", "SQ", "RQ")), "relation_accuracy")

Stage = Literal["base", "occlusion", "joint"]
"""Stage 1, stage 2, or both at once (``joint``: the occlusion module learns from annotations while the base trains)."""


class PanopticModule(pl.LightningModule):
    """Trains one stage of ``model`` by ``schedule`` and evaluates it; ``seed`` and the step give all randomness.

    ``scoring``: what takes the images of a test, ``score`` itself unless it is to be called in another thread.
    """

    scoring: Callable[[Sample, BaseOutput], None]

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
        self.scoring = self.score

    def training_step(self, samples: Sequence[Sample], batch_idx: int) -> Tensor:
        """The total loss of the stage over this process's share of the batch; one that is not finite stops the run.

        Every process averages over its own share (images, proposals or pixels, see the loss), DDP averages the
        gradients, and what is logged is the mean over the processes.
        """
        stream = "occlusion" if self.stage == "occlusion" else "base"  # a base draws the same when trained jointly
        step_seed = stable_seed(self.seed, stream, self.global_step, self.global_rank)
        torch.manual_seed(step_seed)  # the samplers of anchors and proposals draw from the global generator
        losses: dict[str, Tensor] = {}
        if self.stage != "occlusion":
            losses |= self.model.base_losses(samples)
        if self.stage != "base":
            losses |= self.model.occlusion_losses(samples, torch.Generator().manual_seed(step_seed))
        total = torch.stack(list(losses.values())).sum()
        *terms, mean = all_reduce_mean(torch.stack([*losses.values(), total]).detach())
        if not torch.isfinite(mean):  # in all processes at once, so that none waits for another
            self._stop(losses, total, samples)
        logged = {**dict(zip(losses, terms, strict=True)), "lr": self.trainer.optimizers[0].param_groups[0]["lr"]}
        self.log_dict({f"{self.stage}/{name}": value for name, value in logged.items()}, batch_size=len(samples))
        self.log(f"{self.stage}/loss", mean, prog_bar=True, batch_size=len(samples))
        return total

    def _stop(self, losses: dict[str, Tensor], total: Tensor, samples: Sequence[Sample]) -> None:
        terms = ", ".join(f"{name}={loss.item():.4g}" for name, loss in losses.items())
        message = f"{terms}; images {', '.join(str(s.image_id) for s in samples)}"
        faulty = filter(None, all_gather("" if torch.isfinite(total) else message))
        raise NonFiniteLossError(
            f"the loss of stage '{self.stage}' is not finite at step {self.global_step}: {'; '.join(faulty)}. "
            f"The last checkpoint is kept. Lower schedule.{self.stage}.lr, clip gradients "
            "(trainer.gradient_clip_val=10) or use trainer.precision=32-true"
        )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keeps what the stage trains, and how many processes share the batch."""
        checkpoint["state_dict"] = {k: tensor for k, tensor in checkpoint["state_dict"].items() if self.trains(k)}
        checkpoint[PROCESSES] = self.trainer.world_size

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds what the stage leaves alone: a base that trained for one method can go on for another one.

        Says so when the number of processes has changed: the images stay the same, what is drawn at random does not.
        """
        saved, current = checkpoint["state_dict"], self.state_dict()
        alone = {name: tensor for name, tensor in current.items() if not self.trains(name)}
        checkpoint["state_dict"] = {name: tensor for name, tensor in saved.items() if self.trains(name)} | alone
        before, now = checkpoint.get(PROCESSES, self.trainer.world_size), self.trainer.world_size
        if before != now and is_main_process():
            log.warning(
                "the checkpoint was made by %s process(es), %s go on: they see the same images, but draw other random "
                "numbers, so that the results will differ a little from those of an undisturbed run",
                before,
                now,
            )

    def trains(self, name: str) -> bool:
        """Whether a tensor of the state, by its name in it, belongs to what the stage trains."""
        return self.stage == "joint" or name.startswith("model.occlusion.") == (self.stage == "occlusion")

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """A fresh optimiser over what the stage trains."""
        if self.schedule is None:
            raise ValueError("this module was built for evaluation; it has no schedule to train by")
        trained = [p for p in self.model.parameters() if p.requires_grad]
        optimizer, scheduler = self.schedule.optimize(trained)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_test_start(self) -> None:
        """Nothing has been counted yet."""
        if self.evaluation is None:
            raise ValueError("this module was built without an evaluation")
        self.evaluation.begin(self.device)

    def test_step(self, samples: Sequence[Sample], batch_idx: int) -> None:
        """Fuses the detections of every image with every relation and updates the metrics."""
        assert self.evaluation is not None
        if not samples:  # a process without images
            return
        inputs = samples, self.evaluation.conf_thr, self.evaluation.requires
        if self.evaluation.timing:
            outputs, nanoseconds = timed(self.model.base_outputs, *inputs)
            self.evaluation.base_time.update(nanoseconds, len(samples))
        else:
            outputs = self.model.base_outputs(*inputs)
        for sample, output in zip(samples, outputs, strict=True):
            self.scoring(sample, output)

    def score(self, sample: Sample, output: BaseOutput) -> None:
        """Updates the metrics with one image, in the precision of the trainer whatever the thread."""
        assert self.evaluation is not None
        with self.trainer.precision_plugin.forward_context():
            self.evaluation.update(sample, output)

    # While a stage trains, the same on a few images.
    on_validation_start = on_test_start
    validation_step = test_step

    def on_validation_epoch_end(self) -> None:
        """Logs ``<stage>/val/<order>/PQ``, ...; the metrics have summed over all processes."""
        assert self.evaluation is not None
        for order, row in self.evaluation.rows().items():
            scores = {f"{self.stage}/val/{order}/{name}": row[name] for name in VALIDATED if not math.isnan(row[name])}
            self.log_dict(scores, sync_dist=True)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Samples know how to move."""
        return [sample.to(device) for sample in batch]
