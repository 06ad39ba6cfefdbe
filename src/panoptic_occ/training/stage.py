"""Fits one stage with a fresh trainer, from its newest checkpoint if there is one."""

from __future__ import annotations

import logging
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.environments import SLURMEnvironment, TorchElasticEnvironment
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.strategies.launchers import _MultiProcessingLauncher

from panoptic_occ.common.distributed import broadcast_from_main
from panoptic_occ.common.errors import CheckpointError, ConfigError, DataError
from panoptic_occ.common.files import FULL, atomic_path, cannot_write
from panoptic_occ.config.instantiate import refusal
from panoptic_occ.config.schema import DECIDED
from panoptic_occ.data.loading.datamodule import PanopticDataModule
from panoptic_occ.evaluation.variants import build_validation
from panoptic_occ.network.panoptic_fpn import PanopticFPN
from panoptic_occ.runs.folders import RunFolder, latest_checkpoint
from panoptic_occ.runs.plan import OrderPlan, RunPlan
from panoptic_occ.runs.weights import save_weights, weights_digest
from panoptic_occ.training.callbacks.compiled import CompiledBackbone
from panoptic_occ.training.callbacks.preemption import Preemption
from panoptic_occ.training.callbacks.progress import Throughput, stage_progress
from panoptic_occ.training.callbacks.two_stage import TwoStage
from panoptic_occ.training.module import PanopticModule, Stage
from panoptic_occ.training.schedule import Schedule
from panoptic_occ.training.tracking import tracked

log = logging.getLogger(__name__)

# What Lightning says at every start and nobody can act on here.
NOISE = (
    ".*You passed in a `val_dataloader`.*",
    ".*`isinstance\\(treespec, LeafSpec\\)` is deprecated.*",
    ".*does not have many workers.*",
    ".*You have overridden `transfer_batch_to_device`.*",
    ".*Checkpoint directory .* exists and is not empty.*",
    ".*Experiment logs directory .* exists and is not empty.*",
    ".*The `srun` command is available on your system but is not used.*",
)
LIGHTNING_VARIABLES = "PL_TRAINER_"
"""How the variables begin that Lightning takes for parameters of its trainer."""


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes to a temporary name in the same folder, syncs, then renames; loads with ``weights_only``."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Saves atomically."""
        with atomic_path(Path(path), sync=True) as temporary:
            torch.save(checkpoint, temporary)

    def load_checkpoint(
        self, path: str | Path, map_location: Any | None = None, weights_only: bool | None = True
    ) -> dict[str, Any]:
        """Loads tensors and plain values only."""
        loaded: dict[str, Any] = torch.load(path, map_location=map_location or "cpu", weights_only=True)
        return loaded


def make_trainer(plan: RunPlan, callbacks: Sequence[pl.Callback] = (), **settings: Any) -> pl.Trainer:
    """A Lightning trainer as ``plan`` has it; ``settings`` are what a stage or the evaluation fixes itself."""
    plain = plan.trainer.settings
    _check_environment(plain)
    logging.getLogger("pytorch_lightning.utilities.rank_zero").setLevel(logging.WARNING)
    for message in NOISE:
        warnings.filterwarnings("ignore", message=message)
    in_slurm = SLURMEnvironment.detect() and not TorchElasticEnvironment.detect()  # as Lightning chooses
    slurm = [SLURMEnvironment(auto_requeue=False)] if in_slurm else []  # our callback has jobs queued again
    fixed: dict[str, Any] = {
        "use_distributed_sampler": False,  # ours never repeats an image
        "enable_model_summary": False,
        "enable_checkpointing": any(isinstance(c, ModelCheckpoint) for c in callbacks),
        "plugins": [AtomicCheckpointIO(), *slurm],
    }
    bars = [stage_progress()] if plain.get("enable_progress_bar", True) else []
    try:
        trainer: pl.Trainer = plan.trainer.build(callbacks=[*callbacks, *bars], **fixed, **settings)
    except MisconfigurationException as error:
        raise refusal("trainer", plain, error) from error
    if isinstance(trainer.strategy.launcher, _MultiProcessingLauncher):
        raise ConfigError(
            f"trainer.strategy={plain.get('strategy')}: its processes end with the training and take the metrics with "
            "them; use trainer.strategy=ddp, which repeats the command in every process"
        )
    return trainer


def _check_environment(settings: Mapping[str, Any]) -> None:
    """ConfigError for a variable that Lightning takes for a parameter of its trainer: no configuration would tell it,
    and it may leave out images or steps."""
    for variable in sorted(name for name in os.environ if name.startswith(LIGHTNING_VARIABLES)):
        name = variable.removeprefix(LIGHTNING_VARIABLES).lower()
        word = f"{'' if name in settings else '+'}trainer.{name}={os.environ[variable]}"
        instead = DECIDED.get(f"trainer.{name}", f"say {word} on the command line")
        raise ConfigError(
            f"{variable}={os.environ[variable]}: this variable of the environment would change what Lightning does, "
            f"and the run would not tell it; unset it ({instead})"
        )


def fit_stage(stage: Stage, model: PanopticFPN, data: PanopticDataModule, plan: RunPlan, order: OrderPlan) -> None:
    """Trains ``stage``, of the base or of ``order``, and leaves the final weights in its folder; continues after an
    interruption.

    Checkpoints are written every ``checkpoint_every`` steps, the last two are kept, and removed when the stage ends.
    """
    folder = order.folder if stage == "occlusion" else plan.base.folder
    schedule: Schedule = order.schedule.build()
    steps = schedule.stage("occlusion" if stage == "occlusion" else "base", data.batch_size)
    data.steps_per_epoch = min(steps.checkpoint_every, steps.steps)
    # without a logger nobody sees it
    watched = plan.loggers or plan.debugging
    validation = build_validation(plan, order, stage, model, data.categories) if watched else None
    data.max_validation_images = plan.validate_images
    data.resizes = not (stage == "occlusion" and model.occlusion.learns_from == "annotations")
    module = PanopticModule(model, stage, plan.seed, steps, validation)
    saver = ModelCheckpoint(
        dirpath=folder.checkpoints,
        filename="{step:08d}",
        auto_insert_metric_name=False,
        monitor="step",
        mode="max",
        save_top_k=2,
        save_on_train_epoch_end=True,
        enable_version_counter=False,
    )
    origin = {"data": broadcast_from_main(data.source.fingerprint) or ""}
    if stage == "occlusion":
        origin["base"] = weights_digest(model.base_modules())
    resume = broadcast_from_main(lambda: latest_checkpoint(folder, origin))
    if resume is not None:
        log.info("continuing stage '%s' from %s", stage, resume)
    compiling = [CompiledBackbone()] if plan.base.compile else []
    start = resume.stem if resume else "0"
    with clear_errors(folder.path), tracked(plan, order, folder.path, stage, start) as loggers:
        trainer = make_trainer(
            plan,
            [TwoStage(), saver, Preemption(folder.checkpoints), Throughput(), *compiling],
            max_steps=steps.steps,
            max_epochs=-1,
            limit_val_batches=1.0 if validation else 0,
            check_val_every_n_epoch=plan.validate_every or 1,
            num_sanity_val_steps=0,
            logger=loggers,
        )
        trainer.fit(module, datamodule=data, ckpt_path=resume, weights_only=True)
        if trainer.global_step < steps.steps and not plan.debugging:
            _stopped_early(trainer, stage, steps.steps, folder)
    trainer.strategy.barrier()
    note = {"stage": stage, "steps": str(trainer.global_step), "data": origin["data"]}
    broadcast_from_main(lambda: _keep(model, stage, folder, note))  # in no process, when it fails


def _keep(model: PanopticFPN, stage: Stage, folder: RunFolder, note: dict[str, str]) -> None:
    """Writes the final weights of a stage, whose checkpoints then have served."""
    if stage != "base":
        base = {"base": weights_digest(model.base_modules())}
        save_weights(folder.weights("occlusion"), {"occlusion": model.occlusion}, note | base)
    if stage != "occlusion":  # last: this file makes the base finished
        save_weights(folder.weights("base"), model.base_modules(), note)
    shutil.rmtree(folder.checkpoints, ignore_errors=True)


def _stopped_early(trainer: pl.Trainer, stage: Stage, steps: int, folder: RunFolder) -> NoReturn:
    """A stage has final weights only when all its steps are done: keeps a checkpoint to go on from, and says so."""
    trainer.save_checkpoint(folder.checkpoints / f"{trainer.global_step:08d}.ckpt", weights_only=False)
    raise CheckpointError(
        f"{folder.path}: stage '{stage}' stopped after {trainer.global_step} of {steps} steps, which Lightning was "
        "told to do (trainer.max_time?); its checkpoint is kept, and the same command goes on once the limit is raised "
        "or left out"
    )


@contextmanager
def clear_errors(folder: Path) -> Iterator[None]:
    """Makes one error of what happens to a run: a full disk below ``folder``, a data worker that is gone, a checkpoint
    of another network."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise cannot_write(Path(error.filename or folder / "logs"), error) from None
    except RuntimeError as error:
        if "in loading state_dict" in str(error):
            first = "".join(str(error).splitlines()[1:2]).strip()[:200]
            raise CheckpointError(
                f"{folder / 'checkpoints'}: holds a checkpoint of another network ({first}); move the folder away, and "
                "the stage begins anew"
            ) from None
        if "DataLoader worker" not in str(error):
            raise
        raise DataError(
            f"{error} Data workers mostly end because memory runs out: ask for more of it, or use fewer of them "
            "(data.num_workers); the same command goes on from the last checkpoint"
        ) from None
