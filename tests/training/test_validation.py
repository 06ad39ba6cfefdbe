"""The look at a few held-out images while a stage trains: OANet learns the order of annotated masks, without a base."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig
from safetensors.torch import load_file

from panoptic_occ.commands.evaluating import evaluate
from panoptic_occ.commands.training import train_occlusion
from panoptic_occ.config.compose import compose
from panoptic_occ.runs.build import build_data, plan_of
from panoptic_occ.runs.folders import occlusion_folder
from panoptic_occ.runs.plan import build_model
from panoptic_occ.training.callbacks.preemption import Preemption
from panoptic_occ.training.module import PanopticModule

WORDS = (
    "experiment=oracle_base", "occlusion=oanet", "data=scenes_tiny", "schedule=scenes_tiny", "compare=[score]",
    "trainer=cpu", "trainer.enable_progress_bar=false", "trainer.log_every_n_steps=1", "processes=1",
    "validate={every: 2, images: 5}",
)  # fmt: skip
STEPS = 12  # of scenes_tiny, for half its reference batch; an epoch is two of them

TWO_PROCESSES = """
import sys
from panoptic_occ.build import build_data
from panoptic_occ.runs.plan import build_model
from panoptic_occ.config import compose
from panoptic_occ.pipeline import train_occlusion
config = compose(sys.argv[1:])
data = build_data(config)
train_occlusion(config, build_model(config, data.categories), data)
"""


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def words(cache: Path, runs: Path, *more: str) -> list[str]:
    return [*WORDS, f"data.source.cache_dir={cache}", f"runs_dir={runs}", *more]


def fit(options: Sequence[str]) -> DictConfig:
    config = compose(options)
    data = build_data(config)
    train_occlusion(config, build_model(config, data.categories), data)
    return config


def validated(config: DictConfig) -> dict[int, dict[str, float]]:
    """What was logged in all starts of the stage, by step."""
    rows = []
    for file in sorted(occlusion_folder(config).path.glob("logs/occlusion_*/metrics.csv")):
        with open(file) as opened:
            rows += [row for row in csv.DictReader(opened) if row["occlusion/val/score/PQ"]]
    return {
        int(row["step"]): {name.removeprefix("occlusion/val/"): float(v) for name, v in row.items() if "/val/" in name}
        for row in rows
    }


@pytest.fixture(scope="module")
def undisturbed(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> DictConfig:
    return fit(words(cache, tmp_path_factory.mktemp("runs")))


def test_the_last_look_sees_what_an_evaluation_of_these_images_sees(undisturbed: DictConfig, cache: Path) -> None:
    looks = validated(undisturbed)
    assert list(looks) == [3, 7, 11]
    options = words(cache, Path(undisturbed.runs_dir), "data.max_eval_images=5")
    relations = evaluate(plan_of(options))["relations"]
    assert isinstance(relations, dict)
    for order, row in relations.items():
        for name in ("PQ", "SQ", "RQ", "PQ_th", "SQ_th", "RQ_th", "PQ_st", "SQ_st", "RQ_st", "relation_accuracy"):
            assert looks[STEPS - 1][f"{order}/{name}"] == pytest.approx(row[name], rel=1e-6), (order, name)
    assert relations["oanet"]["PQ"] != relations["score"]["PQ"]  # else the test could not tell them apart
    assert len({look["oanet/PQ"] for look in looks.values()}) > 1  # it looks at the network as it is
    assert len({look["score/PQ"] for look in looks.values()}) == 1


def weights(config: DictConfig) -> dict[str, torch.Tensor]:
    return load_file(occlusion_folder(config).weights("occlusion"))


def equal(a: DictConfig, b: DictConfig) -> bool:
    ours, theirs = weights(a), weights(b)
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_looking_changes_nothing(undisturbed: DictConfig, cache: Path, tmp_path: Path) -> None:
    never = fit(words(cache, tmp_path / "a", "validate.every=null"))
    assert equal(never, undisturbed)
    log = next(occlusion_folder(never).path.glob("logs/*/metrics.csv")).read_text()
    assert "/val/" not in log and "occlusion/loss" in log
    assert occlusion_folder(never).path.relative_to(never.runs_dir) == occlusion_folder(undisturbed).path.relative_to(
        undisturbed.runs_dir
    )  # it is no part of what a stage is named by


def test_a_signal_during_a_look(
    undisturbed: DictConfig, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Preemption, "asked", set())
    begin = PanopticModule.on_validation_start

    def interrupted(module: PanopticModule) -> None:
        begin(module)
        if module.global_step == 8:
            os.kill(os.getpid(), signal.SIGTERM)

    options = words(cache, tmp_path)
    monkeypatch.setattr(PanopticModule, "on_validation_start", interrupted)
    with pytest.raises(SystemExit):
        fit(options)
    assert not occlusion_folder(compose(options)).weights("occlusion").exists()
    monkeypatch.setattr(Preemption, "asked", set())
    monkeypatch.setattr(PanopticModule, "on_validation_start", begin)
    resumed = fit(options)
    assert equal(resumed, undisturbed)
    looks = validated(resumed)
    assert looks[3] == validated(undisturbed)[3]
    assert max(looks) > 6  # where the checkpoint was; Lightning's epochs may begin a step later after it


def test_two_processes_look_at_the_same_images(cache: Path, tmp_path: Path) -> None:
    options = words(cache, tmp_path, "trainer.devices=2", "trainer.strategy=ddp")
    program = tmp_path / "program.py"
    program.write_text(TWO_PROCESSES)
    done = subprocess.run([sys.executable, program, *options], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "sync_dist" not in done.stderr
    looks = validated(compose(options))
    assert list(looks) == [3, 7, 11]
    options = words(cache, tmp_path, "data.max_eval_images=5")
    relations = evaluate(plan_of(options))["relations"]
    assert isinstance(relations, dict)
    for order in ("score", "oanet"):
        for name in ("PQ", "RQ_th", "SQ_st", "relation_accuracy"):
            assert looks[STEPS - 1][f"{order}/{name}"] == pytest.approx(relations[order][name], rel=1e-6)
