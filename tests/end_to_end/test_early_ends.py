"""What ends early leaves nothing that counts as finished."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from helpers.tiny_runs import QUIET, TinyRun, equal_weights, steps, tiny_run
from panoptic_occ.commands import evaluating
from panoptic_occ.common.errors import CheckpointError, ConfigError
from panoptic_occ.training.stage import make_trainer

FEW = (*steps(3, 1), "compare=[]", "data.max_eval_images=2", "data.batch_size=2", "validate=null")


@pytest.fixture
def run(cache: Path, tmp_path: Path) -> TinyRun:
    return tiny_run(cache, tmp_path / "runs", *FEW)


def test_a_debugging_run_keeps_nothing(run: TinyRun) -> None:
    assert run.train("trainer.fast_dev_run=1", "data.eval_batch_size=1")["images"] == 1
    assert not list(run.runs.iterdir())
    with pytest.raises(ConfigError, match=r"only train tries itself; data\.max_eval_images=N"):
        run.evaluate("trainer.fast_dev_run=1")


@pytest.mark.parametrize("words", [("save_predictions=true",), ("timing=true",)])
def test_an_evaluation_that_leaves_out_images_writes_nothing(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    base = ("experiment=oracle_base", "data=scenes_tiny", "schedule=scenes_tiny", f"data.source.cache_dir={cache}")
    run = TinyRun(
        [
            *base,
            *QUIET,
            "compare=[]",
            "data.max_eval_images=2",
            "data.eval_batch_size=1",
            f"runs_dir={tmp_path / 'runs'}",
        ]
    )
    run.evaluate(*words)
    before = {path: path.read_bytes() for path in run.runs.rglob("*") if path.is_file()}
    monkeypatch.setattr(evaluating, "make_trainer", partial(make_trainer, limit_test_batches=1))
    with pytest.raises(ConfigError, match="1 of 2 images were scored, and no result is written"):
        run.evaluate(*words, "force=true")
    now = {path: path.read_bytes() for path in run.runs.rglob("*") if path.is_file()}
    assert {path for path in before | now if before.get(path) != now.get(path)} == set()


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
