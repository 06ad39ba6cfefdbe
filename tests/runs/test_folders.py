"""Run folders: their names, and what they keep when work on them fails."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from panoptic_occ.common.errors import CheckpointError, ConfigError, DataError
from panoptic_occ.config.compose import compose
from panoptic_occ.config.of_run import read_config
from panoptic_occ.runs.build import run_folder
from panoptic_occ.runs.folders import PARTS_OF_CHECKPOINT, RunFolder, finished, latest_checkpoint, writing_in
from panoptic_occ.runs.reuse import EvaluationFolder


def test_words_that_change_results_are_in_the_name_and_those_of_the_machine_are_not() -> None:
    machine = ["trainer=cpu", "trainer.devices=2", "trainer.enable_progress_bar=false", "logger=none", "processes=1"]
    quiet = ["seed=3", "compare=[]", "force=true", "data.source.cache_dir=x", "validate.every=5", "save_maps=true"]
    assert run_folder(compose([*machine, *quiet]), [*machine, *quiet]).path.name == "ocfusion_small_s3"
    for changing, named in (
        (
            ["trainer.precision=bf16-mixed", "fusion.min_visible=0.4"],
            "fusion.min-visible-0.4_trainer.precision-bf16-mixed",
        ),
        (["+trainer.gradient_clip_algorithm=value"], "trainer.gradient-clip-algorithm-value"),
        (["data.max_eval_images=5", "schedule.pairs_per_image=4"], "data.max-eval-images-5_schedule.pairs-per-image-4"),
        (["experiment=tiny", "fusion=rap"], "fusion-rap_tiny"),
    ):
        words = [*machine, *changing]
        assert run_folder(compose(words), words).path.name == f"ocfusion_small_s0_{named}"


@pytest.mark.parametrize("name", ["''", ".", "..", "../photos", "a/b", "/tmp/x", "base_0123456789"])
def test_a_run_name_cannot_lead_to_other_folders(name: str) -> None:
    """force=true removes the folder of a run."""
    with pytest.raises(ConfigError, match=r"run_name=.*: needs a name for one folder below runs/scenes"):
        run_folder(compose([f"run_name={name}"]))


def test_a_run_may_be_named_by_a_number() -> None:
    assert run_folder(compose(["run_name=42"])).path.name == "42"


def run_with_results(folder: RunFolder, content: str = "old") -> None:
    for name in ("metrics.json", "config.yaml", "pictures.png", "evaluations/x/metrics.json", "notes.txt"):
        (folder.path / name).parent.mkdir(parents=True, exist_ok=True)
        (folder.path / name).write_text(content)


def contents(folder: RunFolder) -> dict[str, str]:
    files = (path for path in folder.path.rglob("*") if path.is_file())
    return {str(path.relative_to(folder.path)): path.read_text() for path in files}


def test_results_made_anew_replace_the_old_ones_and_nothing_else(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    run_with_results(folder)
    with folder.redone():
        assert sorted(path.name for path in folder.path.glob("[!.]*")) == ["evaluations", "notes.txt"]
        folder.metrics.write_text("new")
    wanted = {"metrics.json": "new", "evaluations/x/metrics.json": "old", "notes.txt": "old"}
    assert contents(folder) == wanted


@pytest.mark.parametrize("fault", [ConfigError("wrong"), KeyboardInterrupt(), SystemExit(143)])
def test_earlier_results_come_back_when_new_ones_fail(tmp_path: Path, fault: BaseException) -> None:
    folder = RunFolder(tmp_path / "run")
    run_with_results(folder)
    before = contents(folder)
    with pytest.raises(type(fault)), folder.redone():
        folder.metrics.write_text("half of it")
        raise fault
    assert contents(folder) == before and not list(folder.path.glob(".*"))


def test_earlier_results_come_back_after_a_kill(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    run_with_results(folder)
    before = contents(folder)
    killed = folder.redone()
    killed.__enter__()
    folder.metrics.write_text("half of it")
    with pytest.raises(ConfigError), folder.redone():
        raise ConfigError("wrong")
    assert contents(folder) == before


@pytest.mark.parametrize(
    "content", [b"", b"- a\n- b\n", b"\xff\xfe\x00", b"choices: {data: scenes\n", b"data: scenes\n", b"a: ${b\n"]
)
def test_a_damaged_configuration_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "config.yaml").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"config\.yaml: damaged \(.+\); the command that made the run writes it"):
        read_config(tmp_path / "config.yaml")


def test_a_stage_goes_on_only_from_what_it_began_with(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder, origin = RunFolder(tmp_path), {"data": "a" * 64, "base": "b" * 16}
    assert latest_checkpoint(folder, origin) is None
    checkpoint = folder.checkpoints / "00000002.ckpt"
    torch.save(dict.fromkeys(PARTS_OF_CHECKPOINT), checkpoint)
    assert latest_checkpoint(folder, origin) == checkpoint
    with pytest.raises(ConfigError, match=r"checkpoints: this stage began on other data .* a{12}, .* c{12}\)"):
        latest_checkpoint(folder, origin | {"data": "c" * 64})
    assert latest_checkpoint(folder, origin) == checkpoint
    assert latest_checkpoint(folder, origin | {"base": "c" * 16}) is None and not checkpoint.exists()
    assert "on a base that was trained again since" in caplog.text


@pytest.mark.parametrize("content", [
        "{}", "[]", "3", '{"method": "ocfusion"}',
        *(f'{{"method": "rap", "images": 3, "relations": {rows}}}' for rows in ("null", "{}", '{"a": {"PQ": "b"}}')),
    ],
)  # fmt: skip
def test_damaged_results_are_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "metrics.json").write_text(content)
    with pytest.raises(DataError, match=r"metrics\.json: these are not the results of a run; .*force=true"):
        finished(RunFolder(tmp_path))


@pytest.mark.parametrize(
    "link",
    ["", "/evaluations", "/evaluations/x", *(f"/evaluations/x/{name}" for name in (".before", ".gone", "panoptic",
     "checkpoints", "logs", "logs/base_0", "logs/base_0/metrics.csv"))],
)  # fmt: skip
def test_nothing_is_written_through_a_link_in_a_run_folder(tmp_path: Path, link: str) -> None:
    documents, data = tmp_path / "documents", tmp_path / "scenes"
    documents.mkdir()
    (documents / "letter.txt").write_text("mine")
    (data / f"run{link}").parent.mkdir(parents=True)
    (data / f"run{link}").symlink_to(documents)
    target = data / "run" / "evaluations" / "x"
    with (
        pytest.raises(ConfigError, match=rf"scenes/run{link}: is a link, and nothing is written through links"),
        writing_in(target, data, "the test", busy="wait"),
    ):
        raise AssertionError("went on")
    assert [path.name for path in documents.rglob("*")] == ["letter.txt"] and (data / f"run{link}").is_symlink()


def test_runs_may_be_kept_on_another_disk(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "scenes").symlink_to(tmp_path / "disk")
    with writing_in(tmp_path / "scenes" / "run", tmp_path / "scenes", "the test", busy="wait"):
        pass


def test_a_pipe_does_not_say_what_results_were_made_from(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "made_from.json")
    with pytest.raises(DataError, match=r"made_from\.json: cannot be read \(.*is a pipe, not a file.*; move it away"):
        EvaluationFolder(tmp_path, str).results()


@pytest.mark.parametrize("content", ["[]", "null", '{"data": 3}', '{"data": null}', '{"base": []}'])
def test_a_note_of_other_kinds_beside_checkpoints(tmp_path: Path, content: str) -> None:
    folder = RunFolder(tmp_path)
    folder.checkpoints.mkdir()
    (folder.checkpoints / "origin.json").write_text(content)
    with pytest.raises(DataError, match=r"origin\.json: does not say what the stage began on; remove .*checkpoints"):
        latest_checkpoint(folder, {"data": "a" * 64})


@pytest.mark.parametrize("missing", sorted(PARTS_OF_CHECKPOINT))
def test_a_checkpoint_that_lacks_a_part(tmp_path: Path, missing: str, caplog: pytest.LogCaptureFixture) -> None:
    folder, origin = RunFolder(tmp_path), {"data": "a" * 64}
    latest_checkpoint(folder, origin)
    torch.save(dict.fromkeys(PARTS_OF_CHECKPOINT - {missing}), folder.checkpoints / "00000002.ckpt")
    assert latest_checkpoint(folder, origin) is None and f"damaged (lacks {missing})" in caplog.text
