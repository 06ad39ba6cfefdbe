"""The processes of one run (DDP): which of them is the main one, and how all of them act on what it finds."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:  # a process that only waits for a lock need not load them
    import pytorch_lightning as pl
    from torch import Tensor

T = TypeVar("T")

RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID")
"""Where torchrun, Lightning and SLURM tell a process its place, the first that is set."""


def is_main_process() -> bool:
    """Whether this is the first process of the run, or the only one."""
    if is_distributed():
        import torch.distributed

        return torch.distributed.get_rank() == 0
    return next((int(os.environ[name]) for name in RANKS if name in os.environ), 0) == 0


def is_distributed() -> bool:
    """Whether the processes of the run can talk to each other."""
    torch = sys.modules.get("torch")
    return torch is not None and torch.distributed.is_available() and bool(torch.distributed.is_initialized())


def started_together() -> bool:
    """Whether something else (SLURM, torchrun) started this process as one of several."""
    return any(int(os.environ.get(name, 1)) > 1 for name in ("SLURM_NTASKS", "WORLD_SIZE"))


def join(trainer: pl.Trainer) -> None:
    """Connects the processes that something else started (SLURM, torchrun), before Lightning would do it.

    They run the whole command side by side, so that they must agree before they train.  Processes that Lightning
    starts come into being when the first of them has begun to train, and have nothing to agree about before that.
    """
    from lightning_fabric.plugins.environments import LightningEnvironment

    environment = getattr(trainer.strategy, "cluster_environment", None)
    if trainer.world_size > 1 and environment is not None and not isinstance(environment, LightningEnvironment):
        trainer.strategy.setup_environment()


def broadcast_from_main(call: Callable[[], T]) -> T:
    """What ``call`` returns or raises in the first process, in every process; without others just ``call()``.

    Files must be asked about in this way: on a shared file system two machines may see different things.
    """
    if not is_distributed():
        return call()
    import torch.distributed

    outcome: list[tuple[T | None, Exception | None]] = [(None, None)]
    if is_main_process():
        try:
            outcome[0] = (call(), None)
        except Exception as raised:
            outcome[0] = (None, raised)
    torch.distributed.broadcast_object_list(outcome, src=0)
    value, error = outcome[0]
    if error is not None:
        raise error
    return value  # type: ignore[return-value]


def all_gather(value: T) -> list[T]:
    """The ``value`` of every process, in their order, in every process; only when all have called it."""
    if not is_distributed():
        return [value]
    import torch.distributed

    values: list[T | None] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(values, value)
    return values  # type: ignore[return-value]


def all_reduce_mean(values: Tensor) -> Tensor:
    """The mean of ``values`` over all processes, in place."""
    if is_distributed():
        import torch.distributed

        torch.distributed.all_reduce(values)
        values /= torch.distributed.get_world_size()
    return values
