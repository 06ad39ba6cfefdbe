"""Wrong settings are found before any work, and cost nothing that was there."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from helpers.tiny_runs import Trained, options
from panoptic_occ.commands import evaluating as pipeline
from panoptic_occ.commands.evaluating import evaluate
from panoptic_occ.commands.training import train
from panoptic_occ.common.errors import CheckpointError, ConfigError, DataError, PanopticOccError
from panoptic_occ.config.compose import compose
from panoptic_occ.runs.build import plan_of, run_plan


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    def fit_stage(*args: object) -> None:
        raise AssertionError("trained before the mistake was found")

    monkeypatch.setattr(pipeline, "fit_stage", fit_stage)


@pytest.mark.parametrize(
    "mistake",
    [
        "trainer.devices=0",
        "compare=[scroe]",
        "policies={strict: {min_visibel: 0.5}}",
        "fusion.min_visible=5",
        "grid={fusion.min_visibel: [0.4]}",
        "+trainer.precission=32",
    ],
)
@pytest.mark.usefixtures("no_training")
def test_a_mistake_about_the_evaluation_is_found_before_training(cache: Path, tmp_path: Path, mistake: str) -> None:
    words = options(cache, tmp_path, mistake)
    with pytest.raises(PanopticOccError):
        train(plan_of(words))
    assert not list(tmp_path.rglob("*.safetensors"))


@pytest.mark.usefixtures("no_training")
def test_doing_a_run_again_with_a_mistake_keeps_it(trained: Trained, cache: Path, tmp_path: Path) -> None:
    shutil.copytree(trained[0], tmp_path, dirs_exist_ok=True)
    folder = tmp_path / "scenes_tiny" / "ocfusion_small_s0"
    before = snapshot(folder)
    words = options(cache, tmp_path, "force=true", "run_name=ocfusion_small_s0", "fusion.min_visible=5")
    with pytest.raises(ConfigError):
        train(plan_of(words))
    assert snapshot(folder) == before


def test_doing_a_run_again_leaves_its_other_evaluations(trained: Trained, cache: Path, tmp_path: Path) -> None:
    shutil.copytree(trained[0], tmp_path, dirs_exist_ok=True)
    folder = tmp_path / "scenes_tiny" / "ocfusion_small_s0"
    other = folder / "evaluations" / "other" / "metrics.json"
    other.parent.mkdir(parents=True)
    other.write_text("{}")
    written = (folder / "metrics.json").stat().st_mtime_ns
    assert train(run_plan(compose(options(cache, tmp_path, "force=true")))) == trained[1]
    assert other.read_text() == "{}" and (folder / "metrics.json").stat().st_mtime_ns > written
    assert not list(folder.glob(".*"))


def test_a_failing_evaluation_keeps_the_earlier_one(trained: Trained, tmp_path: Path) -> None:
    shutil.copytree(trained[0], tmp_path, dirs_exist_ok=True)
    folder = tmp_path / "scenes_tiny" / "ocfusion_small_s0"
    words = [f"run={folder}", "trainer=cpu", "trainer.enable_progress_bar=false", "compare=[]"]
    evaluate(plan_of(words))
    target = folder / "evaluations" / "default"
    before = snapshot(target)
    with pytest.raises(CheckpointError, match="save_predictions=true"):
        evaluate(plan_of([*words, "saved=true"]))
    assert snapshot(target) == before


def test_a_run_is_found_from_anywhere_and_after_a_move(
    trained: Trained, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(trained[0].parent)
    words = options(cache, Path(trained[0].name), "compare=[]")
    train(plan_of(words))  # as a user does, with a folder that is relative
    moved = tmp_path / "moved"
    shutil.copytree(trained[0], moved)
    for where, run in ((tmp_path, "moved/scenes_tiny/ocfusion_small_s0"), (moved / "scenes_tiny", "ocfusion_small_s0")):
        monkeypatch.chdir(where)
        words = [f"run={run}", "trainer=cpu", "trainer.enable_progress_bar=false", "compare=[]", "force=true"]
        assert evaluate(plan_of(words))["images"] == 8
    assert len(list(moved.rglob("evaluations/default/metrics.json"))) == 1
    with pytest.raises(CheckpointError, match=r"not a run folder.*runs below it: .*ocfusion_small_s0"):
        evaluate(plan_of([f"run={moved}"]))


def test_a_try_that_failed_leaves_its_name_free(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def evaluation(*args: object) -> None:
        raise ConfigError("no")

    with monkeypatch.context() as patch, pytest.raises(ConfigError):
        patch.setattr(pipeline, "evaluate_model", evaluation)
        train(run_plan(compose(options(cache, tmp_path, "run_name=mine"))))
    words = options(cache, tmp_path, "run_name=mine", "occlusion.sig_ratio=0.1")
    assert train(run_plan(compose(words)))["images"] == 8


def test_missing_weights_are_answered_with_the_command_that_trains_them(trained: Trained) -> None:
    run = trained[0] / "scenes_tiny" / "ocfusion_small_s0"
    words = [f"run={run}", "compare=[rap]", "force=true", "fusion.conf_thr=0.3", "trainer=cpu"]
    with pytest.raises(CheckpointError, match="rap has not been trained") as caught:
        evaluate(plan_of(words))
    advice = str(caught.value).partition("panoptic_occ.train ")[2].split()
    assert not {"force", "fusion.conf_thr", "run", "compare"} & {word.partition("=")[0] for word in advice}
    assert {"experiment=tiny", "occlusion=rap", f"runs_dir={trained[0]}"} <= set(advice)


def test_damaged_results_are_named_and_done_again(trained: Trained, cache: Path, tmp_path: Path) -> None:
    shutil.copytree(trained[0], tmp_path, dirs_exist_ok=True)
    words = options(cache, tmp_path)
    file = tmp_path / "scenes_tiny" / "ocfusion_small_s0" / "metrics.json"
    os.truncate(file, 100)
    with pytest.raises(PanopticOccError, match=r"metrics\.json"):
        train(run_plan(compose(words)))
    assert train(run_plan(compose([*words, "force=true"]))) == trained[1]
    assert json.loads(file.read_text()) == json.loads(json.dumps(trained[1]))


def test_folder_that_cannot_be_written(cache: Path, tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file where the folder should be")
    with pytest.raises(DataError, match="cannot write here"):
        train(run_plan(compose(options(cache, tmp_path / "runs"))))
