"""The whole suite on a handful of scenes: train, resume after SIGKILL, evaluate, predict."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from panoptic_occ.config import compose
from panoptic_occ.data.scenes.source import ScenesSource
from panoptic_occ.errors import CheckpointError, ConfigError, NonFiniteLossError
from panoptic_occ.pipeline import train
from panoptic_occ.runs.folders import base_folder, occlusion_folder
from panoptic_occ.runs.keys import base_key, stage_key

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
    assert environment["packages"]["torch"] == version("torch")


def test_stage_two_trains_the_head_and_leaves_the_base(trained: tuple[Path, dict[str, object]], cache: Path) -> None:
    from panoptic_occ.build import build_data, build_model
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


def test_finished_run_is_evaluated_again_for_what_it_has_not_seen(
    trained: tuple[Path, dict[str, object]], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs, metrics = trained

    def no_training(*args: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr("panoptic_occ.pipeline.fit_stage", no_training)
    before = metrics["relations"]
    assert isinstance(before, dict) and "larger" not in before
    after = train(compose(options(cache, runs, "compare=[score,larger]")))["relations"]
    assert isinstance(after, dict) and list(after) == ["score", "larger", "ocfusion"]
    assert after["score"] == before["score"] and after["ocfusion"] == before["ocfusion"]
    # the same folder with another policy, as after a change in a YAML file
    strict = train(compose(options(cache, runs, "run_name=ocfusion_small_s0", "fusion.conf_thr=0.9")))["relations"]
    assert isinstance(strict, dict) and strict["ocfusion"] != before["ocfusion"]
    again = train(compose(options(cache, runs)))  # as the tests that follow expect it
    assert again["relations"] == json.loads(json.dumps(before))


def test_other_settings_in_the_same_folder_are_refused(trained: tuple[Path, dict[str, object]], cache: Path) -> None:
    runs, _ = trained
    changed = options(cache, runs, "run_name=ocfusion_small_s0", "occlusion.pairs_per_image=7")
    with pytest.raises(ConfigError, match=r"occlusion\.pairs_per_image: 8 -> 7"):
        train(compose(changed))


def test_weights_of_another_architecture_are_refused(trained: tuple[Path, dict[str, object]], cache: Path) -> None:
    from panoptic_occ.build import build_data, build_model
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


def kill_when(process: subprocess.Popen[bytes], runs: Path, pattern: str, number: int = signal.SIGKILL) -> None:
    """A signal to the whole process group as soon as a file that fits ``pattern`` exists."""
    deadline = time.monotonic() + 180
    while not list(runs.rglob(pattern)):
        if process.poll() is not None or time.monotonic() > deadline:
            raise AssertionError(f"no {pattern}: {process.communicate()[1].decode()[-2000:]}")
        time.sleep(0.005)
    os.killpg(process.pid, number)
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
    assert json.loads(next(tmp_path.rglob("metrics.json")).read_text()) == json.loads(json.dumps(trained[1]))
    for name in ("base.safetensors", "occlusion.safetensors"):
        ours, theirs = (load_file(next(r.rglob(name))) for r in (tmp_path, trained[0]))
        assert all(torch.equal(ours[k], theirs[k]) for k in theirs)


def test_told_to_stop_in_both_stages_ends_as_the_undisturbed_run(
    trained: tuple[Path, dict[str, object]], cache: Path, tmp_path: Path
) -> None:
    """Unlike after SIGKILL the run goes on with the very next step, also in the middle of an epoch."""
    stops = [("base_*/checkpoints/*2.ckpt", signal.SIGTERM), ("ocfusion_*/checkpoints/*2.ckpt", signal.SIGUSR1)]
    for pattern, number in stops:
        process = start(cache, tmp_path)
        kill_when(process, tmp_path, pattern, number)
        assert process.returncode == 128 + number
    process = start(cache, tmp_path)
    _, log = process.communicate(timeout=300)
    assert process.returncode == 0, log.decode()[-2000:]
    assert json.loads(next(tmp_path.rglob("metrics.json")).read_text()) == json.loads(json.dumps(trained[1]))
    for name in ("base.safetensors", "occlusion.safetensors"):
        ours, theirs = (load_file(next(r.rglob(name))) for r in (tmp_path, trained[0]))
        assert all(torch.equal(ours[k], theirs[k]) for k in theirs)


def test_a_second_run_for_the_same_folder_is_refused(cache: Path, tmp_path: Path) -> None:
    from panoptic_occ.runs.folders import run_folder
    from panoptic_occ.runs.locking import work_lock

    words = options(cache, tmp_path)
    with work_lock(run_folder(compose(words), words).path, "the run", busy="wait"):
        process = start(cache, tmp_path)
        _, log = process.communicate(timeout=300)
    assert process.returncode == 1
    assert b"error: " in log and b"another run is at work here (process " in log and b"Traceback" not in log


def test_evaluate_a_run_with_other_thresholds(trained: tuple[Path, dict[str, object]], cache: Path) -> None:
    from panoptic_occ.pipeline import evaluate

    runs, metrics = trained
    folder = runs / "scenes_tiny" / "ocfusion_small_s0"
    words = [f"run={folder}", "trainer=cpu", "trainer.enable_progress_bar=false"]
    assert evaluate(compose(words), words) == metrics
    words += ["fusion.conf_thr=0.02", "compare=[area]", "save_maps=true"]
    other = evaluate(compose(words), words)
    assert list(other["relations"]) == ["area", "ocfusion"]  # type: ignore[call-overload]
    target = folder / "evaluations" / "fusion.conf-thr-0.02"
    assert json.loads((target / "metrics.json").read_text()) == json.loads(json.dumps(other))
    words = [f"run={folder}", "backbone.depth=2"]
    with pytest.raises(ConfigError, match=r"backbone\.depth: 1 -> 2"):
        evaluate(compose(words), words)
    with pytest.raises(CheckpointError, match="not a run folder"):
        evaluate(compose([f"run={runs}/nothing"]), [f"run={runs}/nothing"])


def test_saved_maps_score_the_same_with_the_official_format(
    trained: tuple[Path, dict[str, object]], cache: Path, tmp_path: Path
) -> None:
    from panoptic_occ.data.annotations import Layout
    from panoptic_occ.pipeline import evaluate
    from panoptic_occ.pq import main as pq

    runs, _ = trained
    folder = runs / "scenes_tiny" / "ocfusion_small_s0"
    words = [
        f"run={folder}",
        "trainer=cpu",
        "save_maps=true",
        "fusion.conf_thr=0.01",
        "trainer.enable_progress_bar=false",
    ]
    metrics = evaluate(compose(words), words)
    target = folder / "evaluations" / "fusion.conf-thr-0.01"
    (root,) = (cache / "scenes").iterdir()
    truth = Layout.of(root, "val")
    files = {"gt_json_file": truth.panoptic_json, "gt_folder": truth.panoptic}
    files |= {"pred_json_file": target / "panoptic.json", "pred_folder": target / "panoptic"}
    arguments = [word for name, path in files.items() for word in (f"--{name}", str(path))]
    assert pq([*arguments, "--json", str(tmp_path / "pq.json"), "--processes", "1"]) == 0
    official = json.loads((tmp_path / "pq.json").read_text())
    ours = metrics["relations"]["ocfusion"]  # type: ignore[index]
    assert official["All"]["pq"] == ours["PQ"] and official["Things"]["rq"] == ours["RQ_th"]


def test_predict_images(trained: tuple[Path, dict[str, object]], tmp_path: Path) -> None:
    from panoptic_occ.errors import DataError
    from panoptic_occ.prediction import predict

    runs, _ = trained
    folder = runs / "scenes_tiny" / "ocfusion_small_s0"
    (tmp_path / "in").mkdir()
    Image.new("RGB", (150, 100), (200, 30, 30)).save(tmp_path / "in" / "a.png")
    Image.new("L", (64, 97)).save(tmp_path / "in" / "b.jpg")
    words = [f"run={folder}", f"input={tmp_path}/in", f"output={tmp_path}/out", "trainer=cpu", "fusion.conf_thr=0.02"]
    predict(compose(words), words)
    result = json.loads((tmp_path / "out" / "panoptic.json").read_text())
    assert [a["file_name"] for a in result["annotations"]] == ["a.png", "b.png"]
    for name, size in (("a", (150, 100)), ("b", (64, 97))):
        for kind in ("panoptic", "overlays"):
            assert Image.open(tmp_path / "out" / kind / f"{name}.png").size == size
    (tmp_path / "in" / "c.jpg").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"c\.jpg: cannot be read as an image"):
        predict(compose(words), words)
    for missing, message in ((f"input={tmp_path}/no", "does not exist"), (f"input={tmp_path}/out", "no image")):
        with pytest.raises(DataError, match=message):
            predict(compose([*words, missing]), [*words, missing])
    with pytest.raises(ConfigError, match="'input' needs a value"):
        predict(compose(words[:1]), words[:1])


def test_bf16_and_channels_last_train(cache: Path, tmp_path: Path) -> None:
    fast = ("trainer.precision=bf16-mixed", "channels_last=true", "trainer.gradient_clip_val=1.0")
    short = ("schedule.base.steps=2", "schedule.base.milestones=[]", "schedule.occlusion.steps=2")
    metrics = train(compose(options(cache, tmp_path, *fast, *short, "schedule.occlusion.milestones=[]")))
    assert metrics["images"] == 8


def test_folder_that_cannot_be_written(cache: Path, tmp_path: Path) -> None:
    from panoptic_occ.errors import DataError

    (tmp_path / "runs").write_text("a file where the folder should be")
    with pytest.raises(DataError, match="cannot write here"):
        train(compose(options(cache, tmp_path / "runs")))


def test_metrics_of_another_thread_are_those_of_the_networks_own(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The metrics work behind the network's back, unless steps are timed; numbers and files are the same."""
    from panoptic_occ.evaluation import Evaluation
    from panoptic_occ.pipeline import evaluate

    threads: set[bool] = set()
    update = Evaluation.update

    def watched(*args: Any) -> Any:
        threads.add(threading.current_thread() is threading.main_thread())
        return update(*args)

    monkeypatch.setattr(Evaluation, "update", watched)
    base = [f"data.source.cache_dir={cache}", "experiment=oracle_base", "data=scenes_tiny", *BASE[1:]]
    found = {}
    for timing in (False, True):
        words = [*base, f"runs_dir={tmp_path}/{timing}", f"timing={str(timing).lower()}"]
        rows = evaluate(compose(words), words)["relations"]
        found[timing] = {k: {n: v for n, v in row.items() if not n.endswith("_ms")} for k, row in rows.items()}  # type: ignore[attr-defined]
        assert threads == {timing}
        threads.clear()
    assert json.dumps(found[False]) == json.dumps(found[True])
    for name in ("pq.json", "pictures.png"):
        one, other = tmp_path.rglob(name)
        assert one.read_bytes() == other.read_bytes()

    def broken(*args: Any) -> Any:
        raise ValueError("a map of another size")

    monkeypatch.setattr(Evaluation, "update", broken)
    words = [*base, f"runs_dir={tmp_path}/broken"]
    with pytest.raises(ValueError, match="a map of another size"):
        evaluate(compose(words), words)


def test_a_group_chosen_for_a_run_reads_what_the_run_chose(cache: Path, tmp_path: Path) -> None:
    """``fusion=rap`` takes the smallest stuff area from the run's data, not from the default data."""
    from panoptic_occ.runs.folders import RunFolder, load_run_config
    from panoptic_occ.testing import toy_categories

    words = options(cache, tmp_path, "data.stuff_area=33", "save_predictions=true")
    RunFolder(tmp_path).describe(compose(words), toy_categories())
    asked = compose([f"run={tmp_path}", "fusion=rap"])
    assert asked.fusion.stuff_area == 64
    config = load_run_config(tmp_path, asked, [f"run={tmp_path}", "fusion=rap"])
    assert (config.fusion.min_visible, config.fusion.stuff_area, config.choices.fusion) == (0.6, 33, "rap")
    assert not config.save_predictions  # a flag of the first command, not of the run


def test_joint_training_gives_the_same_base_and_its_occlusion_module(cache: Path, tmp_path: Path) -> None:
    """The ranking module learns from annotations, so no gradient of it reaches the base."""
    words = options(cache, tmp_path, "method=panoptic_fpn", "occlusion=oanet", "compare=[score]")
    apart, joint = compose(words), compose([*words, "joint=true"])
    train(apart, words)
    train(joint, [*words, "joint=true"])
    bases = [load_file(base_folder(config).weights("base")) for config in (apart, joint)]
    assert bases[0].keys() == bases[1].keys()
    assert all(torch.equal(bases[0][name], bases[1][name]) for name in bases[0])
    assert occlusion_folder(joint) == base_folder(joint)
    fresh = load_file(occlusion_folder(apart).weights("occlusion"))
    assert load_file(occlusion_folder(joint).weights("occlusion")).keys() == fresh.keys()
    with pytest.raises(ConfigError, match="joint=true: occlusion=ocfusion learns from the proposals"):
        train(compose(options(cache, tmp_path, "joint=true")))
