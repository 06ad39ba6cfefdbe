"""Real signals in the middle of a fit, a validation and a test, to one of several processes, to other threads, and to
workers that load data; SLURM's commands are played by scripts."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any, cast

import pytest
import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.environments import SLURMEnvironment
from torch import Tensor, nn
from torch.utils.data import DataLoader

from panoptic_occ.common.errors import NonFiniteLossError
from panoptic_occ.data.loading.loader import _outlive_signals, sample_loader
from panoptic_occ.training.callbacks.preemption import Preemption

STEPS = 6


class Line(pl.LightningModule):
    """Fits a line; ``at(place)`` is called before every batch with its name, as in "train 3"."""

    def __init__(self, at: Callable[[str], None]) -> None:
        super().__init__()
        self.line = nn.Linear(1, 1)
        self.at = at
        self.seen: list[str] = []

    def _batch(self, name: str) -> None:
        self.seen.append(name)
        self.at(name)

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        self._batch(f"train {self.global_step}")
        return self.line(batch).square().mean()

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self._batch(f"val {batch_idx}")

    def test_step(self, batch: Tensor, batch_idx: int) -> None:
        self._batch(f"test {batch_idx}")

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def send(number: int, place: str) -> Callable[[str], None]:
    """Sends this process a signal at a batch."""
    return lambda name: os.kill(os.getpid(), number) if name == place else None


def make_trainer(folder: Path, **settings: Any) -> pl.Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0}
    chosen = {"accelerator": "cpu", "devices": 1, "max_steps": STEPS, "max_epochs": -1, "callbacks": Preemption(folder)}
    return pl.Trainer(enable_checkpointing=False, default_root_dir=folder, **{**quiet, **chosen, **settings})


def loader(n: int = STEPS) -> DataLoader[Tensor]:
    return DataLoader(torch.ones(n, 1))  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No cluster, no signal from before, and afterwards the handlers of before."""
    for name in [name for name in os.environ if name.startswith(("SLURM_", "SUBMITIT_"))]:
        monkeypatch.delenv(name)
    Preemption.signals.clear()
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)}
    yield
    Preemption.signals.clear()
    for number, handler in before.items():
        assert signal.getsignal(number) == handler  # a later signal must not be noted by nobody
        signal.signal(number, handler)


class Slurm:
    """Plays a SLURM job by a scontrol that says what ``plays`` was told."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.log, self.program = folder / "calls", folder / "bin" / "scontrol"
        self.program.parent.mkdir()
        patch.setenv("PATH", f"{self.program.parent}:{os.environ['PATH']}")
        patch.setenv("SLURM_JOB_ID", "7")
        self.plays()

    def plays(self, state: str = "RUNNING", preempted: str = "None", requeue_fails: bool = False) -> None:
        self.program.write_text(
            f'#!/bin/sh\necho "$@" >> {self.log}\n'
            f'if [ "$1" = requeue ]; then echo "Job is pending execution" >&2; exit {int(requeue_fails)}; fi\n'
            f'echo "JobId=7 JobName=a\n   JobState={state} Reason=None\n   PreemptTime={preempted} SuspendTime=None"'
        )
        self.program.chmod(0o755)

    @property
    def calls(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []


@pytest.fixture
def slurm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Slurm:
    return Slurm(tmp_path, monkeypatch)


def fit(folder: Path, at: Callable[[str], None], **settings: Any) -> tuple[int, Line]:
    """Fits until a signal ends it; its exit status."""
    module = Line(at)
    with pytest.raises(SystemExit) as stopped:
        make_trainer(folder, **settings).fit(module, loader())
    assert isinstance(stopped.value.code, int)
    return stopped.value.code, module


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2])
def test_training_stops_after_the_step_and_the_next_start_does_the_next(tmp_path: Path, number: int) -> None:
    for step in (0, 1, 2):  # of which one is kept beside the new one
        (tmp_path / f"{step:08d}.ckpt").touch()
    status, module = fit(tmp_path, send(number, "train 2"))
    assert status == 128 + number
    assert module.seen == ["train 0", "train 1", "train 2"]
    assert sorted(path.name for path in tmp_path.glob("*.ckpt")) == ["00000002.ckpt", "00000003.ckpt"]
    state = torch.load(tmp_path / "00000003.ckpt", weights_only=True)
    assert state["global_step"] == 3
    assert torch.equal(state["state_dict"]["line.weight"], module.line.weight)
    Preemption.signals.clear()
    module = Line(lambda name: None)
    make_trainer(tmp_path).fit(module, loader(), ckpt_path=tmp_path / "00000003.ckpt", weights_only=True)
    assert module.seen == ["train 3", "train 4", "train 5"]


def test_a_validation_stops_between_batches_and_saves_nothing(tmp_path: Path) -> None:
    module = Line(send(signal.SIGTERM, "val 1"))
    with pytest.raises(SystemExit):
        make_trainer(tmp_path).fit(module, loader(2), loader(5))
    assert module.seen == ["train 0", "train 1", "val 0", "val 1"]
    assert not list(tmp_path.glob("*.ckpt"))


def test_a_test_stops_between_batches(tmp_path: Path) -> None:
    module = Line(send(signal.SIGUSR2, "test 3"))
    with pytest.raises(SystemExit) as stopped:
        make_trainer(tmp_path, callbacks=Preemption()).test(module, loader(), verbose=False)
    assert stopped.value.code == 128 + signal.SIGUSR2
    assert module.seen[-1] == "test 3"


def test_a_signal_at_the_end_of_a_stage_is_heeded_by_the_next(tmp_path: Path) -> None:
    class AtTheEnd(pl.Callback):
        def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            os.kill(os.getpid(), signal.SIGUSR2)

    make_trainer(tmp_path, callbacks=[Preemption(tmp_path), AtTheEnd()]).fit(Line(lambda name: None), loader())
    module = Line(lambda name: None)
    with pytest.raises(SystemExit):
        make_trainer(tmp_path, callbacks=Preemption()).test(module, loader(), verbose=False)
    assert module.seen == ["test 0"]


def test_a_plain_job_is_queued_again(tmp_path: Path, slurm: Slurm) -> None:
    plugin = SLURMEnvironment(auto_requeue=False)
    status, _ = fit(tmp_path, send(signal.SIGUSR1, "train 2"), plugins=[plugin])
    assert status == 255  # not 0: SLURM would take the job for finished
    assert slurm.calls == ["requeue 7"]
    assert [path.name for path in tmp_path.glob("*.ckpt")] == ["00000003.ckpt"]  # and no hpc_ckpt of Lightning


@pytest.mark.parametrize(
    ("state", "preempted", "expected"),
    [
        ("RUNNING", "2026-01-01T00:00:00", ["show job 7", "requeue 7"]),  # grace time: it would be lost otherwise
        ("COMPLETING", "None", ["show job 7"]),  # scancel: it must stay cancelled
        ("RUNNING", "None", ["show job 7"]),  # somebody's kill
    ],
)
def test_sigterm_queues_only_a_preempted_job(
    tmp_path: Path, slurm: Slurm, state: str, preempted: str, expected: list[str]
) -> None:
    slurm.plays(state, preempted)
    status, _ = fit(tmp_path, send(signal.SIGTERM, "train 2"))
    assert slurm.calls == expected
    assert status == (255 if len(expected) == 2 else 128 + signal.SIGTERM)


def test_a_refused_requeue_is_no_error(tmp_path: Path, slurm: Slurm, caplog: pytest.LogCaptureFixture) -> None:
    """Without grace time SLURM is queueing the job again by itself and refuses to do it twice."""
    slurm.plays(requeue_fails=True)
    status, _ = fit(tmp_path, send(signal.SIGUSR2, "train 2"))
    assert status == 255
    assert "Job is pending execution" in caplog.text


@pytest.mark.parametrize("restarts_left", [True, False])
def test_submitit_queues_its_own_jobs(
    tmp_path: Path, slurm: Slurm, monkeypatch: pytest.MonkeyPatch, restarts_left: bool
) -> None:
    """Its own handler is called, once, and after the checkpoint was there; what that raises, the launcher must hear."""
    heard: list[tuple[int, list[str]]] = []

    def handler(number: int, frame: Any) -> None:
        heard.append((number, sorted(path.name for path in tmp_path.glob("*.ckpt"))))
        if not restarts_left:
            raise RuntimeError("timed-out too many times")
        sys.exit(-1)

    monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
    before = signal.signal(signal.SIGUSR2, handler)
    module = Line(send(signal.SIGUSR2, "train 2"))
    with pytest.raises((SystemExit, RuntimeError)) as stopped:
        make_trainer(tmp_path).fit(module, loader())
    signal.signal(signal.SIGUSR2, before)
    assert str(stopped.value) == ("255" if restarts_left else "timed-out too many times")
    assert heard == [(signal.SIGUSR2, ["00000003.ckpt"])]
    assert len(module.seen) == 3 and slurm.calls == []


def broken(error: Exception, number: int | None) -> Callable[[str], None]:
    def at(name: str) -> None:
        if name == "train 2":
            if number is not None:
                os.kill(os.getpid(), number)
            raise error

    return at


def test_what_the_signal_broke_is_no_result(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    status, _ = fit(tmp_path, broken(ConnectionResetError("the logger's service is gone"), signal.SIGTERM))
    assert status == 128 + signal.SIGTERM
    assert not list(tmp_path.glob("*.ckpt"))  # in the middle of a step there is nothing whole to save
    assert "ConnectionResetError after a signal: the logger's service is gone" in caplog.text


@pytest.mark.parametrize(
    ("error", "number"),
    [(ConnectionResetError("without a signal"), None), (NonFiniteLossError("nan"), signal.SIGTERM)],
)
def test_real_errors_stay_errors(tmp_path: Path, error: Exception, number: int | None) -> None:
    with pytest.raises(type(error)):
        make_trainer(tmp_path).fit(Line(broken(error, number)), loader())


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


@pytest.mark.parametrize("signalled", [False, True])
def test_uneven_shares_of_a_test_do_not_hang(tmp_path: Path, signalled: bool) -> None:
    callbacks = [SignalOneRank(1, tmp_path), Preemption()] if signalled else [Preemption()]
    trainer = make_trainer(tmp_path, devices=2, strategy="ddp_fork", callbacks=callbacks, use_distributed_sampler=False)
    data = DataLoader(torch.ones(5, 1), sampler=Share())  # type: ignore[arg-type]
    with pytest.raises(Exception, match="exit code 143") if signalled else nullcontext():
        trainer.test(Line(lambda name: None), data, verbose=False)


def test_other_threads_cannot_take_signals(tmp_path: Path) -> None:
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
