"""Signals to one of several processes, to other threads and to workers that load data."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from helpers.interrupted_fit import STEPS, Line, clean, loader, make_trainer
from panoptic_occ.data.loading.loader import _outlive_signals, sample_loader
from panoptic_occ.training.callbacks.preemption import Preemption

__all__ = ["clean"]  # a fixture that every test here has


class SignalOneRank(pl.Callback):
    """Signals one process of two, which then must stop together."""

    def __init__(self, rank: int, folder: Path) -> None:
        self.rank, self.folder = rank, folder

    def _at(self, trainer: pl.Trainer, where: str) -> None:
        if trainer.global_rank == self.rank:
            os.kill(os.getpid(), signal.SIGTERM)
        (self.folder / f"rank {trainer.global_rank} {where}").touch()

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == 2:
            self._at(trainer, f"train {trainer.global_step}")
        assert batch_idx <= 2

    def on_test_batch_start(
        self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if batch_idx == 1:
            self._at(trainer, f"test {batch_idx}")
        assert batch_idx <= 1


@pytest.mark.parametrize("rank", [0, 1])
def test_two_processes_stop_at_the_same_step(tmp_path: Path, rank: int) -> None:
    one = SignalOneRank(rank, tmp_path)
    trainer = make_trainer(tmp_path, devices=2, strategy="ddp_fork", callbacks=[one, Preemption(tmp_path)])
    with pytest.raises(Exception, match="exit code 143"):
        trainer.fit(Line(lambda name: None), loader(2 * STEPS))
    assert sorted(path.name for path in tmp_path.glob("rank*")) == ["rank 0 train 2", "rank 1 train 2"]
    assert torch.load(tmp_path / "00000003.ckpt", weights_only=True)["global_step"] == 3


class Share(torch.utils.data.Sampler[int]):
    """Images 0, 2, 4, ... for the first process, 1, 3, ... for the second: shares that differ by one."""

    def __iter__(self) -> Iterator[int]:
        rank = torch.distributed.get_rank()
        return iter(range(rank, 5, 2))

    def __len__(self) -> int:
        return len(range(torch.distributed.get_rank() if torch.distributed.is_initialized() else 0, 5, 2))


@pytest.mark.parametrize("asked", [False, True])
def test_uneven_shares_of_a_test_do_not_hang(tmp_path: Path, asked: bool) -> None:
    callbacks = [SignalOneRank(1, tmp_path), Preemption()] if asked else [Preemption()]
    trainer = make_trainer(tmp_path, devices=2, strategy="ddp_fork", callbacks=callbacks, use_distributed_sampler=False)
    data = DataLoader(torch.ones(5, 1), sampler=Share())  # type: ignore[arg-type]
    if asked:
        with pytest.raises(Exception, match="exit code 143"):
            trainer.test(Line(lambda name: None), data, verbose=False)
    else:
        trainer.test(Line(lambda name: None), data, verbose=False)


def test_other_threads_cannot_take_signals(tmp_path: Path) -> None:
    from threading import Thread

    before = signal.getsignal(signal.SIGUSR2)
    nothing: Any = SimpleNamespace()
    thread = Thread(target=lambda: Preemption().on_train_start(nothing, nothing))
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGUSR2) == before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2])
def test_workers_outlive_the_signal_that_all_processes_get(tmp_path: Path, number: int) -> None:
    def at(name: str) -> None:
        if name == "train 2":
            workers = multiprocessing.active_children()
            assert len(workers) == 2
            for pid in [*(worker.pid for worker in workers), os.getpid()]:
                os.kill(cast(int, pid), number)

    data: Any = torch.ones(8 * STEPS, 1)
    loaded = DataLoader(data, num_workers=2, worker_init_fn=_outlive_signals, persistent_workers=True)
    with pytest.raises(SystemExit):
        make_trainer(tmp_path).fit(Line(at), loaded)
    assert (tmp_path / "00000003.ckpt").exists()
    assert sample_loader(data, 2).worker_init_fn is _outlive_signals
    assert not multiprocessing.active_children()
