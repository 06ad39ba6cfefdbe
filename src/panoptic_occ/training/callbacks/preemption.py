"""What a run does when the cluster wants its machine back, its time is up, or somebody ends it.

    SIGUSR2, SIGUSR1   "stop soon": sent before the time limit (sbatch --signal, submitit), at a preemption with
                       SlurmctldParameters=preempt_send_user_signal, or by hand. The job asks to be queued again.
    SIGTERM            "stop": sent at a preemption without that setting, at scancel, at shutdown. The job asks to be
                       queued again only if SLURM says that it is being preempted: a cancelled job stays cancelled.
    SIGINT             "stop": Ctrl-C; a second one does not wait for the step.

Either way the run stops between two steps, saves a checkpoint while it trains, and exits; the same command (a queued
job runs the same command) continues with the next step.  Lightning's own handling is replaced: it raises at SIGTERM,
which ends a job in its grace time for good, and requeues with a checkpoint of its own that later fits and tests load.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar, NoReturn

import pytorch_lightning as pl
import torch

from panoptic_occ.common.errors import PanopticOccError

log = logging.getLogger(__name__)

STOP_SOON = (signal.SIGUSR2, signal.SIGUSR1)
SIGNALS = (*STOP_SOON, signal.SIGTERM, signal.SIGINT)
KEPT = 2  # checkpoints, as many as the periodic saver keeps
GOES_ON = "the same command continues"
FAILED = 255  # exit status of a job that is queued again; with 0, SLURM would take it for finished

Handler = Callable[[int, Any], object]


class Preemption(pl.Callback):
    """Stops a fit or a test between two steps when a signal asks for it.

    ``checkpoints``: folder for a checkpoint of the step, named like the periodic ones; None where nothing is trained.
    Validation and test are begun anew by the next start, so nothing is saved in them.
    """

    signals: ClassVar[set[int]] = set()
    """Those that this process has got; one that comes when a stage ends is heeded by the next."""

    def __init__(self, checkpoints: Path | None = None) -> None:
        self.checkpoints = checkpoints
        self._before: dict[int, Any] = {}  # the handlers before Lightning's
        self._leaving = False
        self._shared_batches = 0

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Remembers the handlers that were there."""
        self._before = {number: signal.getsignal(number) for number in SIGNALS}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Takes the signals over from Lightning, which has registered for them just before."""
        if threading.current_thread() is threading.main_thread():  # no other thread can
            for number in SIGNALS:
                signal.signal(number, self._note)

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Takes the signals over, and counts the batches that all processes have: their shares may differ by one."""
        self.on_train_start(trainer, pl_module)
        self._shared_batches = _over_processes(trainer, sum(map(int, trainer.num_test_batches)), "min")

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Stops after this step if a signal says so."""
        self._heed(trainer, self.checkpoints)

    def on_test_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Stops after this batch if a signal says so."""
        if batch_idx < self._shared_batches:
            self._heed(trainer)

    def on_validation_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Stops after this batch, if one process does it all; several stop after the validation."""
        if trainer.world_size == 1:
            self._heed(trainer)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """A signal may break what the run needs (workers, a logger's service) before it could stop in peace.

        Such an exception is no result: it would end a sweep although the job runs again.
        """
        ours = isinstance(exception, PanopticOccError) or not isinstance(exception, Exception)
        if self.signals and not self._leaving and not ours:
            log.warning("%s after a signal: %s", type(exception).__name__, exception)
            for number, handler in self._before.items():
                signal.signal(number, handler)
            self._leave(trainer, _first(self.signals), alone=True)

    def _note(self, number: int, frame: object) -> None:
        if number not in self.signals:
            log.warning("%s: stopping after this step", signal.Signals(number).name)
        elif number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signals.add(number)

    def _heed(self, trainer: pl.Trainer, checkpoints: Path | None = None) -> None:
        """Stops all processes together if any of them has got a signal, after a checkpoint if there is a folder."""
        by_weight = [0, *reversed(SIGNALS)]
        number = by_weight[_over_processes(trainer, by_weight.index(_first(self.signals)), "max")]
        if number:
            if checkpoints is not None:
                self._save(trainer, checkpoints)
            self._leave(trainer, number)

    def _save(self, trainer: pl.Trainer, folder: Path) -> None:
        file = folder / f"{trainer.global_step:08d}.ckpt"
        trainer.save_checkpoint(file, weights_only=False)  # all processes together
        if trainer.is_global_zero:
            for old in sorted(folder.glob("*.ckpt"))[:-KEPT]:
                old.unlink(missing_ok=True)
        log.info("saved step %s", trainer.global_step)

    def _leave(self, trainer: pl.Trainer, number: int, alone: bool = False) -> NoReturn:
        """Ends the process, after the first one has had the job queued again."""
        self._leaving = True
        if trainer.is_global_zero and (wandb := sys.modules.get("wandb")):
            with suppress(Exception):  # the signal may have ended its service
                wandb.finish(exit_code=1)
        again = "SLURM_JOB_ID" in os.environ and (number in STOP_SOON or _being_preempted())
        try:
            if again and trainer.is_global_zero:
                requeue([handler for soon in STOP_SOON if callable(handler := self._before[soon])])
        finally:
            if not alone:
                trainer.strategy.barrier()  # a process that ends early could make SLURM kill the first one
        name, step = signal.Signals(number).name, trainer.global_step
        log.warning("%s: stopped at step %s; %s", name, step, "queued again" if again else GOES_ON)
        raise SystemExit(FAILED if again else 128 + number)


def requeue(handlers: Sequence[Handler]) -> None:
    """Has this SLURM job queued again.

    ``handlers``: those of the signals before ours; under submitit its own one, which writes down how to go on and asks
    SLURM.  It raises when the job has used up its restarts (hydra.launcher.max_num_timeout).
    """
    job = os.environ["SLURM_JOB_ID"]
    try:
        if "SUBMITIT_EXECUTOR" in os.environ and handlers:
            with suppress(SystemExit):  # how it ends the process
                handlers[0](STOP_SOON[0], None)
        else:
            subprocess.run(["scontrol", "requeue", job], check=True, capture_output=True, text=True)
    except (subprocess.CalledProcessError, OSError) as error:
        # SLURM refuses when it is queueing the job again itself
        log.warning("SLURM job %s: scontrol requeue: %s", job, getattr(error, "stderr", None) or error)


def _being_preempted() -> bool:
    """Whether SLURM wants this job's place for another one, and the job is in its grace time."""
    show = ["scontrol", "show", "job", os.environ["SLURM_JOB_ID"]]
    try:
        output = subprocess.run(show, capture_output=True, text=True, timeout=30).stdout
    except (OSError, subprocess.TimeoutExpired):
        return False
    words = dict(word.partition("=")[::2] for word in output.split())
    return words.get("JobState") == "RUNNING" and words.get("PreemptTime", "None") != "None"


def _first(signals: set[int]) -> int:
    """The signal that says most about what to do, 0 without any."""
    return next((number for number in SIGNALS if number in signals), 0)


def _over_processes(trainer: pl.Trainer, value: int, how: str) -> int:
    """The smallest ("min") or largest ("max") ``value`` of all processes."""
    if trainer.world_size == 1:
        return value
    reduced = trainer.strategy.reduce(torch.tensor(value, device=trainer.strategy.root_device), reduce_op=how)
    return int(reduced.item())
