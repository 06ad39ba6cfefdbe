"""Training on a handful of scenes: what a run leaves, what is not done twice, what is refused."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from helpers.tiny_runs import QUIET, TinyRun, equal_weights, read, steps, tiny_run
from panoptic_occ.common.errors import ConfigError
from panoptic_occ.runs.weights import load_weights


def test_run_leaves_everything_behind(trained: TinyRun) -> None:
    (base,) = trained.folder.parent.glob("base_*")
    for name in ("config.yaml", "environment.json", "metrics.json", "metrics.csv", "pq.json", "pq.txt", "pictures.png"):
        assert (trained.folder / name).stat().st_size > 0, name
    assert list(trained.metrics["relations"]) == ["score", "area", "random", "ocfusion", "ground_truth"]
    assert Image.open(trained.folder / "pictures.png").width > 200
    assert not list(trained.runs.rglob("*.ckpt")) and not list(trained.runs.rglob("*.tmp"))
    assert read(base / "environment.json")["packages"]["torch"] == version("torch")


def test_stage_two_trains_the_head_and_leaves_the_base(trained: TinyRun) -> None:
    plan, _, model = trained.built()
    load_weights(plan.base.folder.weights("base"), model.base_modules())
    fresh, head = model.occlusion.state_dict(), load_file(plan.order.folder.weights("occlusion"))
    assert {f"occlusion.{name}" for name in fresh} == set(head)
    assert all(not torch.equal(head[f"occlusion.{name}"], tensor) for name, tensor in fresh.items())


@pytest.mark.usefixtures("no_training")
def test_finished_run_is_not_repeated_and_the_base_is_shared(trained: TinyRun, tmp_path: Path) -> None:
    run, before = trained.copied(tmp_path), trained.metrics["relations"]
    written = (run.folder / "metrics.json").stat().st_mtime_ns
    assert run.train() == trained.metrics and (run.folder / "metrics.json").stat().st_mtime_ns == written
    alone = run.train("method=panoptic_fpn", "fusion=ocfusion")["relations"]
    assert alone["score"] == before["score"]  # the same base, the same detections, the same order


@pytest.mark.usefixtures("no_training")
def test_finished_run_is_evaluated_again_for_what_it_has_not_seen(trained: TinyRun, tmp_path: Path) -> None:
    run, before = trained.copied(tmp_path), trained.metrics["relations"]
    after = run.train("compare=[score,larger]")["relations"]
    assert list(after) == ["score", "larger", "ocfusion"]
    assert all(after[order] == before[order] for order in ("score", "ocfusion"))
    # the same folder with another policy, as after a change in a YAML file
    strict = run.train(f"run_name={run.folder.name}", "fusion.conf_thr=0.9", "compare=[]")["relations"]
    assert strict["ocfusion"] != before["ocfusion"]
    assert run.train("compare=[]")["relations"] == {"ocfusion": before["ocfusion"]}


def test_other_settings_in_the_same_folder_are_refused(trained: TinyRun) -> None:
    with pytest.raises(ConfigError, match=r"occlusion\.pairs_per_image: 8 -> 7"):
        trained.train(f"run_name={trained.folder.name}", "occlusion.pairs_per_image=7")


def test_bf16_and_channels_last_train(cache: Path, tmp_path: Path) -> None:
    fast = ("trainer.precision=bf16-mixed", "channels_last=true", "trainer.gradient_clip_val=1.0")
    few = ("data.max_eval_images=2", "validate=null")  # bf16 is slow on a CPU
    assert tiny_run(cache, tmp_path, *fast, *steps(2, 2), *few).train()["images"] == 2


def test_joint_training_gives_the_same_base_and_its_occlusion_module(trained: TinyRun, tmp_path: Path) -> None:
    """The ranking module learns from annotations, so no gradient of it reaches the base."""
    run = trained.copied(tmp_path)
    words = ("method=panoptic_fpn", "occlusion=oanet", "compare=[score]", "data.max_eval_images=1")
    for joint in ("joint=false", "joint=true"):
        run.train(*words, joint)
    apart, together = run.plan(*words), run.plan(*words, "joint=true")
    assert equal_weights(apart.base.folder.weights("base"), together.base.folder.weights("base"))
    assert together.order.folder == together.base.folder != apart.base.folder
    modules = [load_file(plan.order.folder.weights("occlusion")) for plan in (apart, together)]
    assert modules[0].keys() == modules[1].keys()
    with pytest.raises(ConfigError, match="joint=true: occlusion=ocfusion learns from the proposals"):
        run.train("joint=true")


def test_an_oracle_base_has_nothing_to_train_but_what_learns_from_annotations(cache: Path, tmp_path: Path) -> None:
    words = ["experiment=oracle_base", "data=scenes_tiny", "schedule=scenes_tiny", "compare=[score]", *QUIET]
    run = TinyRun([*words, f"data.source.cache_dir={cache}", f"runs_dir={tmp_path}"])
    assert set(run.train("occlusion=oanet")["relations"]) == {"score", "oanet"}
    assert not list(tmp_path.rglob("base.*"))
    with pytest.raises(ConfigError, match=r"thing=ground_truth has no proposals.*occlusion=oanet"):
        run.train("occlusion=rap")
