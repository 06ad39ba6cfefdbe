"""What a result is tied to: the files of the data, the weights of the base, and the images that it lists."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from data.conftest import TinyCoco
from helpers.tiny_runs import QUIET, TinyRun, read, trained_again
from panoptic_occ.commands import evaluating, training
from panoptic_occ.common.errors import CheckpointError, ConfigError, DataError
from panoptic_occ.runs.weights import WEIGHTS, saved_digest


def watched(monkeypatch: pytest.MonkeyPatch, module: Any, name: str) -> list[Any]:
    """The first arguments of the calls of a function."""
    calls, function = [], getattr(module, name)
    monkeypatch.setattr(module, name, lambda first, *rest: [calls.append(first), function(first, *rest)][1])
    return calls


def test_a_head_is_trained_again_when_its_base_was(
    trained: TinyRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run, stages = trained.copied(tmp_path), watched(monkeypatch, training, "fit_stage")
    plan = run.plan()
    base, head = plan.base.folder.weights("base"), plan.order.folder.weights("occlusion")
    base.write_bytes(base.read_bytes())
    assert run.train() == trained.metrics and not stages  # the same weights, written later
    trained_again(base)
    with pytest.raises(CheckpointError, match=r"on other weights of the base .* run: python .*train "):
        run.evaluate_folder()
    metrics = run.train()
    assert stages == ["occlusion"] and "it is trained again" in caplog.text
    assert WEIGHTS.read_header(head)["base"] == saved_digest(base)
    assert run.train() == metrics and run.evaluate_folder()["relations"] == metrics["relations"]
    assert stages == ["occlusion"]


@pytest.fixture
def coco(tmp_path: Path) -> TinyCoco:
    """Images to evaluate on; those to train on lie beside them."""
    root = tmp_path / "data"
    TinyCoco(root, "train2017").write()
    coco = TinyCoco(root)
    coco.write()
    return coco


@pytest.fixture
def run(coco: TinyCoco, tmp_path: Path) -> TinyRun:
    """A run without weights."""
    words = ["experiment=oracle_base", "data=coco", f"data.root={coco.root}", f"data.source.cache_dir={tmp_path}/cache"]
    return TinyRun([*QUIET, "data.num_workers=0", "compare=[class_prior]", *words, f"runs_dir={tmp_path}/runs"])


def repainted(coco: TinyCoco) -> None:
    coco.ids[5][1:9, 1:9] = 1  # the cat lies on the dog now; the JSON stays
    coco.write()


CHANGES: dict[str, Callable[[TinyCoco], object]] = {
    "map": repainted,
    "image": lambda coco: Image.new("RGB", (16, 12), "red").save(coco.image_path(5)),
    "map of the training split, whose pairs are counted": lambda coco: repainted(TinyCoco(coco.root, "train2017")),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
@pytest.mark.parametrize(("command", "module"), [("train", training), ("evaluate", evaluating)])
def test_results_of_changed_files_are_made_again(
    coco: TinyCoco,
    run: TinyRun,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    module: Any,
    change: Callable[[TinyCoco], object],
) -> None:
    made, give = watched(monkeypatch, module, "evaluate_network"), getattr(run, command)
    before = give()
    assert give() == before and len(made) == 1
    change(coco)
    after = give()
    assert len(made) == 2
    assert give() == after and len(made) == 2
    assert (after["relations"] != before["relations"]) == (change is not CHANGES["image"])  # which no order here reads


@pytest.mark.parametrize(("command", "module"), [("train", training), ("evaluate", evaluating)])
def test_results_that_do_not_say_what_they_were_made_from_are_made_again(
    run: TinyRun, monkeypatch: pytest.MonkeyPatch, command: str, module: Any
) -> None:
    made, give = watched(monkeypatch, module, "evaluate_network"), getattr(run, command)
    before = give()
    (note,) = run.runs.rglob("made_from.json")
    for count, damage in enumerate((b"\xff", b"[]", b'{"data": 3}'), start=2):
        note.write_bytes(damage)
        assert give() == before and len(made) == count


def test_a_run_on_changed_training_data_is_refused(trained: TinyRun, tmp_path: Path) -> None:
    run = trained.copied(tmp_path)
    base = run.plan().base.folder.weights("base")
    tensors = WEIGHTS.read(base)[1]
    WEIGHTS.write(base, tensors, {"data": "a" * 64})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("panoptic_occ.data.scenes.source.ScenesSource.fingerprint", lambda self: "b" * 64)
        with pytest.raises(ConfigError, match=r"base\.safetensors: trained on other data \(fingerprint a{12}, "):
            run.train()


def learning(run: TinyRun) -> TinyRun:
    """A module on a base of annotations, trained for a step."""
    few = ("schedule.occlusion.steps=1", "schedule.occlusion.milestones=[]", "data.batch_size=1", "compare=[]")
    return TinyRun(["occlusion=oanet", *few, *run.words])


def test_a_module_on_annotations_is_trained_again_on_other_data(
    coco: TinyCoco, run: TinyRun, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run, stages = learning(run), watched(monkeypatch, training, "fit_stage")
    made = watched(monkeypatch, training, "evaluate_network")
    run.train()
    run.train()
    assert stages == ["occlusion"] and len(made) == 1
    repainted(TinyCoco(coco.root, "train2017"))
    run.train()
    assert stages == ["occlusion"] * 2 and len(made) == 2
    assert "trained on other data than those of data.root are now; it is trained again" in caplog.text
    run.train()
    assert len(stages) == len(made) == 2


def renamed(coco: TinyCoco) -> None:
    """The things of a split change their names."""
    for category in (*coco.categories, *coco.instance_categories):
        category["name"] = {"cat": "dog", "dog": "cat"}.get(category["name"], category["name"])
    coco.write()


def test_other_categories_than_those_of_the_weights_are_refused(coco: TinyCoco, run: TinyRun) -> None:
    run = learning(run)
    run.train()
    before = {path: path.read_bytes() for path in run.runs.rglob("*.json")}
    renamed(coco)
    named = r"only one of the two has 17 'cat' \(thing\), 17 'dog' \(thing\), 18 'cat'"
    for command in (run.train, run.evaluate):
        with pytest.raises(ConfigError, match=rf"panoptic_val2017\.json: its categories are not those .*{named}"):
            command()
    assert {path: path.read_bytes() for path in run.runs.rglob("*.json")} == before


@pytest.mark.parametrize("counting", [False, True])
def test_splits_of_other_categories_are_refused(coco: TinyCoco, run: TinyRun, counting: bool) -> None:
    renamed(coco)
    with pytest.raises(DataError, match="the train and val splits have different categories"):
        (run if counting else learning(run)).train()
    assert not list(run.runs.rglob("categories.json"))


def test_a_run_on_repainted_scenes_is_refused(trained: TinyRun, cache: Path, tmp_path: Path) -> None:
    run, other = trained.copied(tmp_path / "runs"), shutil.copytree(cache, tmp_path / "scenes")
    image = sorted(other.glob("scenes/*_train24_*/train/*.jpg"))[0]
    assert run.train(f"data.source.cache_dir={other}") == trained.metrics
    Image.new("RGB", Image.open(image).size, "red").save(image)
    with pytest.raises(ConfigError, match=r"base\.safetensors: trained on other data"):
        run.train(f"data.source.cache_dir={other}")


def test_maps_are_those_of_the_last_evaluation(coco: TinyCoco, run: TinyRun) -> None:
    words = ("save_maps=true", "compare=[]")
    run.evaluate(*words)
    (listed,) = run.runs.rglob("panoptic.json")

    def maps() -> dict[int, str]:
        files = {path.name for path in (listed.parent / "panoptic").iterdir()}
        entries = {entry["image_id"]: entry["file_name"] for entry in read(listed)["annotations"]}
        assert set(entries.values()) == files - {"notes.txt"}
        return entries

    assert maps() == {5: "0005.png", 7: "0007.png", 9: "0009.png"}
    (listed.parent / "panoptic" / "notes.txt").write_text("mine")
    for entries in (coco.images, coco.instance_images, coco.instances, coco.panoptic):
        entries[:] = [e for e in entries if e.get("image_id", e.get("id")) != 7]
        for entry in entries:  # image 5 becomes 50
            key = "image_id" if "image_id" in entry else "id"
            entry[key] = 50 if entry[key] == 5 else entry[key]
    coco.write()
    run.evaluate(*words)
    assert maps() == {9: "0009.png", 50: "0005.png"}

    picture = listed.parent / "panoptic" / "0009.png"
    Image.new("RGB", (3, 3)).save(picture)
    before = {path: path.read_bytes() for path in listed.parent.rglob("*") if path.is_file()}
    with pytest.raises(DataError, match=r"0009\.png: is in the way of a prediction .*move it away"):
        run.evaluate(*words, "force=true")
    assert {path: path.read_bytes() for path in listed.parent.rglob("*") if path.is_file()} == before
