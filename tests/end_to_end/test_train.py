"""Training on a handful of scenes: what a run leaves, what is not done twice, what is refused."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from helpers.tiny_runs import BASE, Trained, options
from panoptic_occ.commands.training import train
from panoptic_occ.common.errors import CheckpointError, ConfigError
from panoptic_occ.config.compose import compose
from panoptic_occ.runs.build import plan_of, run_plan
from panoptic_occ.runs.folders import base_folder, occlusion_folder
from panoptic_occ.runs.keys import base_key, stage_key


def test_run_leaves_everything_behind(trained: Trained) -> None:
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
    assert environment["packages"]["torch"] == version("torch")


def test_stage_two_trains_the_head_and_leaves_the_base(trained: Trained, cache: Path) -> None:
    from panoptic_occ.runs.build import build_data
    from panoptic_occ.runs.plan import build_model
    from panoptic_occ.runs.weights import load_weights

    runs, _ = trained
    config = compose(options(cache, runs))
    data = build_data(config)
    model = build_model(config, data.categories)
    fresh = {name: tensor.clone() for name, tensor in model.occlusion.state_dict().items()}
    load_weights(base_folder(config).weights("base"), model.base_modules())
    head = load_file(occlusion_folder(config).weights("occlusion"))
    assert {f"occlusion.{name}" for name in fresh} == set(head)
    assert all(not torch.equal(head[f"occlusion.{name}"], tensor) for name, tensor in fresh.items())


def test_finished_run_is_not_repeated_and_the_base_is_shared(
    trained: Trained, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs, metrics = trained

    def no_training(*args: object) -> None:
        raise AssertionError("a finished stage was repeated")

    monkeypatch.setattr("panoptic_occ.commands.evaluating.fit_stage", no_training)
    assert train(run_plan(compose(options(cache, runs)))) == json.loads(json.dumps(metrics))
    alone = train(run_plan(compose(options(cache, runs, "method=panoptic_fpn", "fusion=ocfusion"))))
    ours, theirs = (m["relations"]["score"] for m in (alone, metrics))  # type: ignore[index]
    assert ours == theirs  # the same base, the same detections, the same order


def test_finished_run_is_evaluated_again_for_what_it_has_not_seen(
    trained: Trained, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs, metrics = trained

    def no_training(*args: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr("panoptic_occ.commands.evaluating.fit_stage", no_training)
    before = metrics["relations"]
    assert isinstance(before, dict) and "larger" not in before
    after = train(run_plan(compose(options(cache, runs, "compare=[score,larger]"))))["relations"]
    assert isinstance(after, dict) and list(after) == ["score", "larger", "ocfusion"]
    assert after["score"] == before["score"] and after["ocfusion"] == before["ocfusion"]
    # the same folder with another policy, as after a change in a YAML file
    strict = train(run_plan(compose(options(cache, runs, "run_name=ocfusion_small_s0", "fusion.conf_thr=0.9"))))[
        "relations"
    ]
    assert isinstance(strict, dict) and strict["ocfusion"] != before["ocfusion"]
    again = train(run_plan(compose(options(cache, runs))))  # as the tests that follow expect it
    assert again["relations"] == json.loads(json.dumps(before))


def test_other_settings_in_the_same_folder_are_refused(trained: Trained, cache: Path) -> None:
    runs, _ = trained
    changed = options(cache, runs, "run_name=ocfusion_small_s0", "occlusion.pairs_per_image=7")
    with pytest.raises(ConfigError, match=r"occlusion\.pairs_per_image: 8 -> 7"):
        train(run_plan(compose(changed)))


def test_weights_of_another_architecture_are_refused(trained: Trained, cache: Path) -> None:
    from panoptic_occ.runs.build import build_data
    from panoptic_occ.runs.plan import build_model
    from panoptic_occ.runs.weights import load_weights

    runs, _ = trained
    config = compose(options(cache, runs, "backbone.out_channels=64"))
    model = build_model(config, build_data(config).categories)
    (weights,) = (runs / "scenes_tiny").glob("base_*/base.safetensors")
    with pytest.raises(CheckpointError, match=r"another network or data set.*of another shape"):
        load_weights(weights, model.base_modules())


def test_keys_hold_what_matters(cache: Path, tmp_path: Path) -> None:
    plain = compose(options(cache, tmp_path))
    same = ("method=panoptic_fpn", "fusion.conf_thr=0.7", "data.num_workers=2", "processes=2", "compare=[score]")
    same += ("thing.nms_thr=0.6", "data.source.cache_dir=/elsewhere")
    other = ("seed=1", "schedule.base.lr=0.01", "thing.mask_convs=1", "data.source.mix.prior=0.9", "backbone.depth=2")
    other += (
        "+trainer.sync_batchnorm=true",
        "+trainer.gradient_clip_algorithm=value",
        "+trainer.limit_train_batches=3",
    )
    for change in same:
        assert base_key(compose(options(cache, tmp_path, change))) == base_key(plain), change
    for change in other:
        assert base_key(compose(options(cache, tmp_path, change))) != base_key(plain), change
    head = compose(options(cache, tmp_path, "occlusion.sig_ratio=0.1"))
    assert base_key(head) == base_key(plain) and stage_key(head) != stage_key(plain)
    for change in ("occlusion.logit_thr=0.5", "occlusion.sym=avg", "occlusion.intra=false", "fusion=rap"):
        assert stage_key(compose(options(cache, tmp_path, change))) == stage_key(plain), change


def test_bf16_and_channels_last_train(cache: Path, tmp_path: Path) -> None:
    fast = ("trainer.precision=bf16-mixed", "channels_last=true", "trainer.gradient_clip_val=1.0")
    short = ("schedule.base.steps=2", "schedule.base.milestones=[]", "schedule.occlusion.steps=2")
    few = ("schedule.occlusion.milestones=[]", "data.max_eval_images=2", "validate=null")  # bf16 is slow on a CPU
    metrics = train(run_plan(compose(options(cache, tmp_path, *fast, *short, *few))))
    assert metrics["images"] == 2


def test_joint_training_gives_the_same_base_and_its_occlusion_module(cache: Path, tmp_path: Path) -> None:
    """The ranking module learns from annotations, so no gradient of it reaches the base."""
    words = options(cache, tmp_path, "method=panoptic_fpn", "occlusion=oanet", "compare=[score]")
    apart, joint = compose(words), compose([*words, "joint=true"])
    train(run_plan(apart, words))
    train(run_plan(joint, [*words, "joint=true"]))
    bases = [load_file(base_folder(config).weights("base")) for config in (apart, joint)]
    assert bases[0].keys() == bases[1].keys()
    assert all(torch.equal(bases[0][name], bases[1][name]) for name in bases[0])
    assert occlusion_folder(joint) == base_folder(joint)
    fresh = load_file(occlusion_folder(apart).weights("occlusion"))
    assert load_file(occlusion_folder(joint).weights("occlusion")).keys() == fresh.keys()
    with pytest.raises(ConfigError, match="joint=true: occlusion=ocfusion learns from the proposals"):
        train(run_plan(compose(options(cache, tmp_path, "joint=true"))))


def test_an_oracle_base_has_nothing_to_train_but_what_learns_from_annotations(cache: Path, tmp_path: Path) -> None:
    few = ["experiment=oracle_base", "data=scenes_tiny", "schedule=scenes_tiny", "compare=[score]", *BASE[1:]]
    words = [*few, f"data.source.cache_dir={cache}", f"runs_dir={tmp_path}"]
    metrics = train(plan_of([*words, "occlusion=oanet"]))
    assert set(metrics["relations"]) == {"score", "oanet"}  # type: ignore[call-overload]
    assert not list(tmp_path.rglob("base.*"))
    with pytest.raises(ConfigError, match=r"thing=ground_truth has no proposals.*occlusion=oanet"):
        train(plan_of([*words, "occlusion=rap"]))
