"""What ends early leaves nothing that counts as finished."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.tiny_runs import TinyRun, equal_weights, steps, tiny_run
from panoptic_occ.common.errors import CheckpointError, ConfigError

FEW = (*steps(3, 1), "compare=[]", "data.max_eval_images=2", "data.batch_size=2", "validate=null")


@pytest.fixture
def run(cache: Path, tmp_path: Path) -> TinyRun:
    return tiny_run(cache, tmp_path / "runs", *FEW)


def test_a_debugging_run_keeps_nothing(run: TinyRun) -> None:
    run.train("trainer.fast_dev_run=1")
    assert not list(run.runs.iterdir())
    with pytest.raises(ConfigError, match=r"only train tries itself; data\.max_eval_images=N"):
        run.evaluate("trainer.fast_dev_run=1")


def test_a_stage_that_a_limit_ends_goes_on_later(run: TinyRun, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"stage 'base' stopped after 0 of 12 steps.*trainer\.max_time"):
        run.train("+trainer.max_time=00:00:00:00")
    weights = run.plan().base.folder.weights("base")
    assert not weights.exists() and [file.name for file in weights.parent.glob("*/*.ckpt")] == ["00000000.ckpt"]
    run.train()
    whole = f"runs_dir={tmp_path / 'whole'}"
    run.train(whole)
    assert equal_weights(weights, run.plan(whole).base.folder.weights("base"))


def test_a_grid_of_the_occlusion_method_needs_no_stored_predictions(run: TinyRun) -> None:
    run.train()
    rows = run.evaluate("grid={occlusion.logit_thr: [0.3, 0.7]}")["relations"]
    assert len(rows) == 2


def test_no_command_writes_through_a_link_in_a_run_folder(run: TinyRun, tmp_path: Path) -> None:
    (tmp_path / "documents").mkdir()
    base, evaluated = run.plan().base.folder.path, run.plan().training_folders[-1].path
    for command, link in ((run.train, run.folder), (run.train, base), (run.evaluate, evaluated / "evaluations")):
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(tmp_path / "documents")
        with pytest.raises(ConfigError, match=rf"{link.name}: is a link, and nothing is written through links"):
            command()
        link.unlink()
    assert not list((tmp_path / "documents").iterdir())
