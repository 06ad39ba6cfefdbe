"""The look at a few held-out images while a stage trains: OANet learns the order of annotated masks, without a base."""

from __future__ import annotations

import csv
import os
import signal
from pathlib import Path

import pytest

from helpers.tiny_runs import QUIET, TinyRun, equal_weights
from panoptic_occ.commands.training import train_order
from panoptic_occ.runs.plan import RunPlan
from panoptic_occ.training.callbacks.preemption import Preemption
from panoptic_occ.training.module import PanopticModule

WORDS = (
    "experiment=oracle_base", "occlusion=oanet", "data=scenes_tiny", "schedule=scenes_tiny", "compare=[score]",
    *QUIET, "trainer.log_every_n_steps=1", "validate={every: 2, images: 5}",
)  # fmt: skip
STEPS = 12  # of scenes_tiny, for half its reference batch; an epoch is two of them


def oanet(cache: Path, runs: Path, *more: str) -> TinyRun:
    return TinyRun([*WORDS, f"data.source.cache_dir={cache}", *more, f"runs_dir={runs}"])


def fit(run: TinyRun) -> RunPlan:
    plan, data, model = run.built()
    train_order(plan, plan.order, model, data)
    return plan


def validated(plan: RunPlan) -> dict[int, dict[str, float]]:
    """What was logged in all starts of the stage, by step."""
    rows = []
    for file in sorted(plan.order.folder.path.glob("logs/occlusion_*/metrics.csv")):
        with open(file) as opened:
            rows += [row for row in csv.DictReader(opened) if row["occlusion/val/score/PQ"]]
    return {
        int(row["step"]): {name.removeprefix("occlusion/val/"): float(v) for name, v in row.items() if "/val/" in name}
        for row in rows
    }


@pytest.fixture(scope="module")
def undisturbed(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> RunPlan:
    return fit(oanet(cache, tmp_path_factory.mktemp("runs")))


def test_the_last_look_sees_what_an_evaluation_of_these_images_sees(undisturbed: RunPlan, cache: Path) -> None:
    looks = validated(undisturbed)
    assert list(looks) == [3, 7, 11]
    rows = oanet(cache, undisturbed.runs_dir).evaluate("data.max_eval_images=5")["relations"]
    for order, row in rows.items():
        for name in ("PQ", "SQ", "RQ", "PQ_th", "SQ_th", "RQ_th", "PQ_st", "SQ_st", "RQ_st", "relation_accuracy"):
            assert looks[STEPS - 1][f"{order}/{name}"] == pytest.approx(row[name], rel=1e-6), (order, name)
    assert rows["oanet"]["PQ"] != rows["score"]["PQ"]  # else the test could not tell them apart
    assert len({look["oanet/PQ"] for look in looks.values()}) > 1  # it looks at the network as it is
    assert len({look["score/PQ"] for look in looks.values()}) == 1


def equal(a: RunPlan, b: RunPlan) -> bool:
    return equal_weights(*(plan.order.folder.weights("occlusion") for plan in (a, b)))


def test_looking_changes_nothing(undisturbed: RunPlan, cache: Path, tmp_path: Path) -> None:
    never = fit(oanet(cache, tmp_path, "validate.every=null"))
    assert equal(never, undisturbed)
    log = next(never.order.folder.path.glob("logs/*/metrics.csv")).read_text()
    assert "/val/" not in log and "occlusion/loss" in log
    places = [plan.order.folder.path.relative_to(plan.runs_dir) for plan in (never, undisturbed)]
    assert places[0] == places[1]  # it is no part of what a stage is named by


def test_a_signal_during_a_look(
    undisturbed: RunPlan, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Preemption, "signals", set())
    begin = PanopticModule.on_validation_start

    def interrupted(module: PanopticModule) -> None:
        begin(module)
        if module.global_step == 8:
            os.kill(os.getpid(), signal.SIGTERM)

    run = oanet(cache, tmp_path)
    monkeypatch.setattr(PanopticModule, "on_validation_start", interrupted)
    with pytest.raises(SystemExit):
        fit(run)
    assert not run.plan().order.folder.weights("occlusion").exists()
    monkeypatch.setattr(Preemption, "signals", set())
    monkeypatch.setattr(PanopticModule, "on_validation_start", begin)
    resumed = fit(run)
    assert equal(resumed, undisturbed)
    looks = validated(resumed)
    assert looks[3] == validated(undisturbed)[3]
    assert max(looks) > 6  # where the checkpoint was; Lightning's epochs may begin a step later after it
