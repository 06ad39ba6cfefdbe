"""The whole suite on a handful of scenes: train, resume after SIGKILL, evaluate, predict."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from panoptic_occ.config import compose
from panoptic_occ.data.scenes.source import ScenesSource
from panoptic_occ.errors import CheckpointError, ConfigError, NonFiniteLossError
from panoptic_occ.pipeline import train
from panoptic_occ.runs import base_folder, base_key, stage_key

BASE = ["experiment=tiny", "trainer=cpu", "trainer.enable_progress_bar=false"]


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scenes painted once for all tests."""
    folder = tmp_path_factory.mktemp("cache")
    config = compose([*BASE, f"data.source.cache_dir={folder}"])
    ScenesSource(**{k: v for k, v in config.data.source.items() if k != "_target_"}).prepare()
    return folder


def options(cache: Path, runs: Path, *more: str) -> list[str]:
    return [*BASE, f"data.source.cache_dir={cache}", f"runs_dir={runs}", *more]


@pytest.fixture(scope="session")
def trained(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, object]]:
    """An undisturbed run and its metrics."""
    runs = tmp_path_factory.mktemp("runs")
    return runs, train(compose(options(cache, runs)))


def test_run_leaves_everything_behind(trained: tuple[Path, dict[str, object]]) -> None:
    runs, metrics = trained
    folder = runs / "scenes_tiny" / "ocfusion_small_s0"
    (base,) = (runs / "scenes_tiny").glob("base_*")
    for name in ("config.yaml", "environment.json", "metrics.json", "metrics.csv", "pq.json", "pq.txt", "pictures.png"):
        assert (folder / name).stat().st_size > 0, name
    assert json.loads((folder / "metrics.json").read_text()) == json.loads(json.dumps(metrics))
    assert list(metrics["relations"]) == ["score", "area", "random", "ocfusion", "ground_truth"]  # type: ignore[call-overload]
    assert Image.open(folder / "pictures.png").width > 200
    assert not list(runs.rglob("*.ckpt")) and not list(runs.rglob("*.tmp"))
    environment = json.loads((base / "environment.json").read_text())
    assert environment["packages"]["torch"] == torch.__version__.split("+")[0] or environment["packages"]["torch"]


def test_stage_two_trains_the_head_and_leaves_the_base(trained: tuple[Path, dict[str, object]], cache: Path) -> None:
    from panoptic_occ.build import build_data, build_model
    from panoptic_occ.weights import load_weights

    runs, _ = trained
    config = compose(options(cache, runs))
    data = build_data(config)
    model = build_model(config, data.categories)
    fresh = {name: tensor.clone() for name, tensor in model.occlusion.state_dict().items()}
    load_weights(base_folder(config).weights("base"), model.base_modules())
    head = load_file(runs / "scenes_tiny" / "ocfusion_small_s0" / "occlusion.safetensors")
    assert {f"occlusion.{name}" for name in fresh} == set(head)
    assert all(not torch.equal(head[f"occlusion.{name}"], tensor) for name, tensor in fresh.items())


def test_finished_run_is_not_repeated_and_the_base_is_shared(
    trained: tuple[Path, dict[str, object]], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs, metrics = trained

    def no_training(*args: object) -> None:
        raise AssertionError("a finished stage was repeated")

    monkeypatch.setattr("panoptic_occ.pipeline.fit_stage", no_training)
    assert train(compose(options(cache, runs))) == json.loads(json.dumps(metrics))
    alone = train(compose(options(cache, runs, "method=panoptic_fpn", "fusion=ocfusion")))
    ours, theirs = (m["relations"]["score"] for m in (alone, metrics))  # type: ignore[index]
    assert ours == theirs  # the same base, the same detections, the same order


def test_other_settings_in_the_same_folder_are_refused(trained: tuple[Path, dict[str, object]], cache: Path) -> None:
    runs, _ = trained
    changed = options(cache, runs, "run_name=ocfusion_small_s0", "occlusion.pairs_per_image=7")
    with pytest.raises(ConfigError, match=r"occlusion\.pairs_per_image: 128 -> 7"):
        train(compose(changed))


def test_weights_of_another_architecture_are_refused(trained: tuple[Path, dict[str, object]], cache: Path) -> None:
    from panoptic_occ.build import build_data, build_model
    from panoptic_occ.weights import load_weights

    runs, _ = trained
    config = compose(options(cache, runs, "backbone.out_channels=64"))
    model = build_model(config, build_data(config).categories)
    (weights,) = (runs / "scenes_tiny").glob("base_*/base.safetensors")
    with pytest.raises(CheckpointError, match="another network or data set.*of another shape"):
        load_weights(weights, model.base_modules())


def test_keys_hold_what_matters(cache: Path, tmp_path: Path) -> None:
    plain = compose(options(cache, tmp_path))
    same = ("method=panoptic_fpn", "fusion.conf_thr=0.7", "data.num_workers=2", "thing.nms_thr=0.6", "compare=[score]")
    other = ("seed=1", "schedule.base.lr=0.01", "thing.mask_convs=1", "data.source.mix.prior=0.9", "backbone.depth=2")
    for change in same:
        assert base_key(compose(options(cache, tmp_path, change))) == base_key(plain), change
    for change in other:
        assert base_key(compose(options(cache, tmp_path, change))) != base_key(plain), change
    head = compose(options(cache, tmp_path, "occlusion.sig_ratio=0.1"))
    assert base_key(head) == base_key(plain) and stage_key(head) != stage_key(plain)


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


def start(cache: Path, runs: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "panoptic_occ.train", *options(cache, runs)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True)


def kill_when(process: subprocess.Popen[bytes], runs: Path, pattern: str) -> None:
    """SIGKILL to the whole process group as soon as a file that fits ``pattern`` exists."""
    deadline = time.monotonic() + 180
    while not list(runs.rglob(pattern)):
        if process.poll() is not None or time.monotonic() > deadline:
            raise AssertionError(f"no {pattern}: {process.communicate()[1].decode()[-2000:]}")
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def test_killed_in_both_stages_ends_as_the_undisturbed_run(
    trained: tuple[Path, dict[str, object]], cache: Path, tmp_path: Path
) -> None:
    for pattern in ("base_*/checkpoints/*4.ckpt", "ocfusion_*/checkpoints/*2.ckpt"):
        kill_when(start(cache, tmp_path), tmp_path, pattern)
        assert not list(tmp_path.rglob("metrics.json"))
    process = start(cache, tmp_path)
    _, log = process.communicate(timeout=300)
    assert process.returncode == 0, log.decode()[-2000:]
    assert b"continuing stage 'occlusion'" in log
    ours, theirs = (next(r.rglob("metrics.json")).read_text() for r in (tmp_path, trained[0]))
    assert json.loads(ours) == json.loads(theirs)
    for name in ("base.safetensors", "occlusion.safetensors"):
        ours, theirs = (load_file(next(r.rglob(name))) for r in (tmp_path, trained[0]))  # type: ignore[assignment]
        assert all(torch.equal(ours[k], theirs[k]) for k in theirs)  # type: ignore[call-overload,index]
