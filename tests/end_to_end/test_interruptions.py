"""Runs that are killed, told to stop, or stopped by a fault, and go on."""

from __future__ import annotations

import json
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from helpers.tiny_runs import Trained, kill_when, options, start
from panoptic_occ.config import compose
from panoptic_occ.errors import NonFiniteLossError
from panoptic_occ.pipeline import train


def test_loss_that_is_not_finite_stops_and_keeps_the_checkpoint(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from panoptic_occ.model import PanopticFPN

    honest = PanopticFPN.base_losses
    calls = 0

    def broken(self: PanopticFPN, samples: Sequence[object]) -> dict[str, torch.Tensor]:
        nonlocal calls
        calls += 1
        losses = honest(self, samples)  # type: ignore[arg-type]
        return losses | {"box": losses["box"] * float("nan")} if calls == 4 else losses

    monkeypatch.setattr(PanopticFPN, "base_losses", broken)
    with pytest.raises(NonFiniteLossError, match=r"not finite at step 3: .*box=nan.*; images \d+"):
        train(compose(options(cache, tmp_path)))
    (checkpoint,) = tmp_path.rglob("*.ckpt")
    assert torch.load(checkpoint, weights_only=True)["global_step"] == 2
    monkeypatch.setattr(PanopticFPN, "base_losses", honest)
    assert train(compose(options(cache, tmp_path)))["images"] == 8


def test_killed_in_both_stages_ends_as_the_undisturbed_run(trained: Trained, cache: Path, tmp_path: Path) -> None:
    for pattern in ("base_*/checkpoints/*4.ckpt", "ocfusion_*/checkpoints/*2.ckpt"):
        kill_when(start(cache, tmp_path), tmp_path, pattern)
        assert not list(tmp_path.rglob("metrics.json"))
    process = start(cache, tmp_path)
    _, log = process.communicate(timeout=300)
    assert process.returncode == 0, log.decode()[-2000:]
    assert b"continuing stage 'occlusion'" in log
    assert json.loads(next(tmp_path.rglob("metrics.json")).read_text()) == json.loads(json.dumps(trained[1]))
    for name in ("base.safetensors", "occlusion.safetensors"):
        ours, theirs = (load_file(next(r.rglob(name))) for r in (tmp_path, trained[0]))
        assert all(torch.equal(ours[k], theirs[k]) for k in theirs)


def test_told_to_stop_in_both_stages_ends_as_the_undisturbed_run(trained: Trained, cache: Path, tmp_path: Path) -> None:
    """Unlike after SIGKILL the run goes on with the very next step, also in the middle of an epoch."""
    stops = [
        ("base_*/checkpoints/*2.ckpt", signal.SIGTERM),
        ("base_*/checkpoints/*4.ckpt", signal.SIGINT),
        ("ocfusion_*/checkpoints/*2.ckpt", signal.SIGUSR1),
    ]
    for pattern, number in stops:
        process = start(cache, tmp_path)
        kill_when(process, tmp_path, pattern, number)
        assert process.returncode == 128 + number
    process = start(cache, tmp_path)
    _, log = process.communicate(timeout=300)
    assert process.returncode == 0, log.decode()[-2000:]
    assert json.loads(next(tmp_path.rglob("metrics.json")).read_text()) == json.loads(json.dumps(trained[1]))
    for name in ("base.safetensors", "occlusion.safetensors"):
        ours, theirs = (load_file(next(r.rglob(name))) for r in (tmp_path, trained[0]))
        assert all(torch.equal(ours[k], theirs[k]) for k in theirs)


def test_a_second_run_for_the_same_folder_is_refused(cache: Path, tmp_path: Path) -> None:
    from panoptic_occ.runs.folders import run_folder
    from panoptic_occ.runs.locking import work_lock

    words = options(cache, tmp_path)
    with work_lock(run_folder(compose(words), words).path, "the run", busy="wait"):
        process = start(cache, tmp_path)
        _, log = process.communicate(timeout=300)
    assert process.returncode == 1
    assert b"error: " in log and b"another run is at work here (process " in log and b"Traceback" not in log


def test_folder_that_cannot_be_written(cache: Path, tmp_path: Path) -> None:
    from panoptic_occ.errors import DataError

    (tmp_path / "runs").write_text("a file where the folder should be")
    with pytest.raises(DataError, match="cannot write here"):
        train(compose(options(cache, tmp_path / "runs")))
