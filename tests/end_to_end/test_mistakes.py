"""Wrong settings are found before any work, and cost nothing that was there."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from helpers.tiny_runs import QUIET, TinyRun, read, tiny_run
from panoptic_occ.commands import training
from panoptic_occ.commands.evaluating import evaluate
from panoptic_occ.common.errors import CheckpointError, ConfigError, PanopticOccError
from panoptic_occ.runs.build import plan_of


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


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
    with pytest.raises(PanopticOccError):
        tiny_run(cache, tmp_path).train(mistake)
    assert not list(tmp_path.rglob("*.safetensors"))


def test_doing_a_run_again_replaces_its_results_and_leaves_its_other_evaluations(
    trained: TinyRun, tmp_path: Path
) -> None:
    """With a mistake, it leaves all."""
    run = trained.copied(tmp_path)
    other, file = run.folder / "evaluations" / "other" / "metrics.json", run.folder / "metrics.json"
    other.parent.mkdir(parents=True)
    other.write_text("{}")
    os.truncate(file, 100)
    before = snapshot(run.folder)
    with pytest.raises(ConfigError):
        run.train("force=true", f"run_name={run.folder.name}", "fusion.min_visible=5")
    with pytest.raises(PanopticOccError, match=r"metrics\.json"):
        run.train()
    assert snapshot(run.folder) == before
    assert run.train("force=true") == trained.metrics == read(file)
    assert other.read_text() == "{}" and not list(run.folder.glob(".*"))


def test_a_run_is_found_from_anywhere_and_after_a_move(
    trained: TinyRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained.copied(tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    run = TinyRun([*trained.words[:-1], "runs_dir=runs"])
    run.train("compare=[]")  # as a user does, with a folder that is relative
    moved = shutil.copytree("runs", tmp_path / "moved")
    for where, path in (
        (tmp_path, Path("moved") / run.folder.relative_to("runs")),
        (moved, run.folder.relative_to("runs")),
    ):
        monkeypatch.chdir(where)
        words = [f"run={path}", *QUIET, "compare=[]", "force=true"]
        assert evaluate(plan_of(words))["images"] == 8
    assert len(list(moved.rglob("evaluations/default/metrics.json"))) == 1
    with pytest.raises(CheckpointError, match=rf"not a run folder.*runs below it: .*{run.folder.name}"):
        plan_of([f"run={moved}"])


def test_a_try_that_failed_leaves_its_name_free(
    trained: TinyRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def evaluation(*args: object) -> None:
        raise ConfigError("no")

    run = trained.copied(tmp_path)
    with monkeypatch.context() as patch, pytest.raises(ConfigError):
        patch.setattr(training, "evaluate_network", evaluation)
        run.train("run_name=mine")
    assert run.train("run_name=mine", "occlusion.sig_ratio=0.1", "compare=[]")["images"] == 8


def test_missing_weights_are_answered_with_the_command_that_trains_them(trained: TinyRun) -> None:
    with pytest.raises(CheckpointError, match="rap has not been trained") as caught:
        trained.evaluate_folder("compare=[rap]", "force=true", "fusion.conf_thr=0.3", "data.source.val_images=5")
    advice = str(caught.value).partition("panoptic_occ.train ")[2].split()
    assert advice == ["experiment=tiny", "occlusion=rap", trained.words[-1]]
    module = caught.value.args[0].partition("/occlusion.safetensors")[0]
    assert str(plan_of(advice).order.folder.path) == module
