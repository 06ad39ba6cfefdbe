"""Real signals in the middle of a fit, a validation and a test; SLURM's commands are played by scripts."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.environments import SLURMEnvironment

from helpers.interrupted_fit import Line, clean, loader, make_trainer, send
from panoptic_occ.common.errors import NonFiniteLossError
from panoptic_occ.training.callbacks.preemption import Preemption

__all__ = ["clean"]  # a fixture that every test here has


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
    Preemption.asked.clear()
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
