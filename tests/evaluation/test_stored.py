"""Stored predictions give what the network gives, without the network."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.stored_runs import Runs, all_maps, make_runs
from panoptic_occ.commands import evaluating as pipeline
from panoptic_occ.common.errors import CheckpointError, ConfigError, DataError
from panoptic_occ.config.compose import compose
from panoptic_occ.runs.archive import Archive, ArchiveWriter
from panoptic_occ.runs.folders import base_folder, occlusion_folder
from panoptic_occ.runs.predictions import PredictionWriter
from panoptic_occ.runs.weights import WEIGHTS
from panoptic_occ.structures.sample import Sample


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scenes")


@pytest.fixture(scope="module")
def stored(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """A base and its predictions, and in ``maps`` and ``metrics`` what an evaluation that stores nothing gives."""
    runs = make_runs(scenes, tmp_path_factory.mktemp("stored"))
    runs.evaluate("save_predictions=true")
    return runs


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise AssertionError("saved predictions need no network and none of its weights")

    for name in ("build_model", "load_base", "make_trainer"):
        monkeypatch.setattr(pipeline, name, refuse)


def trained_again(weights: Path) -> None:
    """Writes other weights into a file."""
    _, tensors = WEIGHTS.read(weights)
    tensors = {name: tensor + 1 if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    WEIGHTS.write(weights, tensors, {})


def copied(stored: Runs, tmp_path: Path) -> Runs:
    shutil.copytree(compose(stored.words).runs_dir, tmp_path / "runs")
    return Runs([*stored.words[:-1], f"runs_dir={tmp_path / 'runs'}"])


def test_maps_are_those_of_the_network(stored: Runs, request: pytest.FixtureRequest) -> None:
    few = ("compare=[score,area,ground_truth]", "fusion.min_visible=0.1")
    with all_maps() as network:
        metrics = stored.evaluate(*few)
    request.getfixturevalue("no_network")
    with all_maps() as fused:
        assert stored.evaluate("saved=true", *few) == metrics
    assert len(fused) == 8 * 4 and fused.keys() == network.keys()
    for key, panoptic in network.items():
        assert torch.equal(panoptic.ids, fused[key].ids) and panoptic.segments == fused[key].segments, key
        assert panoptic.records == fused[key].records, key
    differing = [
        i for i, name in fused if name == "score" and not torch.equal(fused[i, name].ids, fused[i, "ocfusion"].ids)
    ]
    assert len(differing) > 1  # else the comparison would say little


def test_average_precision_is_that_of_the_network(stored: Runs, tmp_path: Path) -> None:
    """All detections are ranked, whatever the fusion takes; they are stored only when that is asked for."""
    runs = copied(stored, tmp_path)
    asked = ("compare=[score]", "average_precision=true", "save_conf_thr=0.05")
    network = runs.evaluate(*asked, "save_predictions=true")["relations"]
    assert runs.evaluate(*asked, "saved=true")["relations"] == network
    assert network["score"]["AP_mask"] == network["ocfusion"]["AP_mask"] > 0
    few = runs.evaluate(*asked, "thing.score_thr=0.3")["relations"]
    assert few["score"]["AP_mask"] < network["score"]["AP_mask"]


def test_official_maps_and_columns_of_a_grid(stored: Runs, no_network: None) -> None:
    folder = Path(compose(stored.words).runs_dir)
    stored.evaluate("saved=true", "save_maps=true", "compare=[]", "fusion.min_visible=0.3")
    assert len(list(folder.rglob("evaluations/*min-visible-0.3_*/panoptic/*.png"))) == 8
    stored.evaluate(
        "saved=true", "compare=[area]", "grid={fusion.duplicate_thr: [null, 0.5], occlusion.intra: [false]}"
    )
    (file,) = folder.rglob("evaluations/*duplicate-thr*/metrics.csv")
    head, *lines = file.read_text().splitlines()
    assert head.startswith("relation,fusion.duplicate_thr,occlusion.intra,PQ,")
    names = ["area | duplicate_thr=null,,,", '"ocfusion | duplicate_thr=null, intra=False",,False,']
    names += ["area | duplicate_thr=0.5,0.5,,", '"ocfusion | duplicate_thr=0.5, intra=False",0.5,False,']
    assert sorted(line.startswith(name) for line, name in zip(lines, names, strict=True)) == [True] * 4


def test_images_are_read_only_by_methods_that_look_at_them(
    stored: Runs, no_network: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from panoptic_occ.data.coco.dataset import CocoPanoptic

    def refuse(self: CocoPanoptic, index: int) -> Sample:
        raise DataError("the image was read")

    monkeypatch.setattr(CocoPanoptic, "load", refuse)
    few = ("saved=true", "occlusion=score", "fusion=heuristic", "fusion.conf_thr=0.1")
    stored.evaluate(*few, "compare=[class_prior]")
    with pytest.raises(DataError, match="the image was read"):
        stored.evaluate(*few, "compare=[banet]")


def test_what_is_not_stored_is_named_with_the_way_to_store_it(stored: Runs, tmp_path: Path, no_network: None) -> None:
    command = r"to store them, run: python -m panoptic_occ\.evaluate experiment=tiny .* save_predictions=true"
    nothing = Runs([*stored.words[:-1], f"runs_dir={tmp_path}"])
    for words, runs, error, message in (
        ((), nothing, CheckpointError, rf"base\.zip: the file does not exist; {command}$"),
        (("thing.nms_thr=0.7",), stored, CheckpointError, rf"settings \(thing\.nms_thr: 0\.5 -> 0\.7\); {command}$"),
        (
            ("fusion.conf_thr=0.05",),
            stored,
            ConfigError,
            rf"conf_thr=0\.05: .*score 0\.1 and more.* {command} save_conf_t",
        ),
        (
            ("average_precision=true",),
            stored,
            ConfigError,
            rf"average_precision=true ranks all .*score 0\.05 .*score 0\.1 .*set average.* {command} save_conf_t",
        ),
        (("compare=[upsnet]",), stored, ConfigError, "occlusion=upsnet reads .*semantic_logits.*; set saved=false"),
        (
            ("save_maps=true", "grid={fusion.conf_thr: [0.2, 0.3]}"),
            stored,
            ConfigError,
            "save_maps=true writes one map",
        ),
    ):
        with pytest.raises(error, match=message):
            runs.evaluate("saved=true", *words)


def change_header(path: Path, change: Callable[[dict[str, Any]], None], *left_out: int) -> None:
    archive = Archive(path, "")
    header = {key: value for key, value in archive.header.items() if key != "format"}
    change(header)
    with ArchiveWriter(path, header) as writer:
        for image_id in set(archive.image_ids()) - set(left_out):
            writer.add(image_id, archive.read(image_id))


def test_stores_that_do_not_fit_are_refused(stored: Runs, tmp_path: Path, no_network: None) -> None:
    runs = copied(stored, tmp_path)
    base, (answers,) = runs.folder / "base.zip", runs.folder.glob("ocfusion_*.zip")
    whole = base.read_bytes()

    def refused(error: type[Exception], message: str) -> None:
        with pytest.raises(error, match=message):
            runs.evaluate("saved=true", "compare=[]")

    change_header(base, lambda header: header.update(annotations="others"))
    refused(
        CheckpointError, r"base\.zip: was stored for other annotations than those of .*panoptic_val\.json; to store"
    )
    base.write_bytes(whole)
    change_header(base, lambda header: None, Archive(base, "").image_ids()[0])
    refused(CheckpointError, r"base\.zip: 1 images are not in it; to store")
    base.write_bytes(whole[:-40])
    refused(DataError, r"base\.zip: .* cannot be read .*the file is damaged: to store them, run")
    base.write_bytes(whole)
    change_header(answers, lambda header: header.update(detections="others"))
    refused(CheckpointError, r"ocfusion_\w+\.zip: holds head outputs for other detections")
    change_header(answers, lambda header: header.update(detections=Archive(base, "").header["digest"]))
    weights = occlusion_folder(compose(runs.words)).weights("occlusion")
    trained_again(weights)
    refused(CheckpointError, r"holds answers of occlusion=ocfusion before it was trained again; to store")


def test_an_interrupted_evaluation_leaves_the_store_as_it_was(
    stored: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs, seen, store = copied(stored, tmp_path), [], PredictionWriter.__call__
    before = {path.name: path.read_bytes() for path in runs.folder.iterdir()}

    def interrupted(self: PredictionWriter, sample: Any, output: Any, maps: Any) -> None:
        seen.append(sample.image_id)
        if len(seen) == 4:
            raise DataError("the disk is gone")
        store(self, sample, output, maps)

    monkeypatch.setattr(PredictionWriter, "__call__", interrupted)
    with pytest.raises(DataError, match="the disk is gone"):
        runs.evaluate("save_predictions=true", "compare=[]", "save_conf_thr=0.05")
    assert {path.name: path.read_bytes() for path in runs.folder.iterdir()} == before


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The evaluations that are made, and not only shown."""
    made: list[str] = []
    for name in ("evaluate_model", "evaluate_saved"):
        make = getattr(pipeline, name)
        monkeypatch.setattr(pipeline, name, lambda *args, name=name, make=make: [made.append(name), make(*args)][1])
    return made


def test_an_evaluation_is_made_once(stored: Runs, passes: list[str]) -> None:
    few = ("compare=[score]", "fusion.min_visible=0.2")
    metrics = stored.evaluate(*few)
    assert stored.evaluate(*few, "processes=2") == metrics and passes == ["evaluate_model"]
    stored.evaluate(*few, "force=true")
    assert passes == ["evaluate_model"] * 2
    passes.clear()
    for words in (
        ("saved=true",),
        ("saved=true", "compare=[area]"),
        ("saved=true", "compare=[area]", "save_maps=true"),
    ):
        metrics = stored.evaluate(*few, *words)
        assert stored.evaluate(*few, *words) == metrics
    assert passes == ["evaluate_saved"] * 3  # all of them into one folder


def test_an_evaluation_is_made_again_from_other_files(stored: Runs, passes: list[str], tmp_path: Path) -> None:
    runs, few = copied(stored, tmp_path), ("compare=[]", "fusion.min_visible=0.2")
    cfg = compose(runs.words)
    base, weights = base_folder(cfg).weights("base"), occlusion_folder(cfg).weights("occlusion")

    def again(*words: str) -> list[str]:
        passes.clear()
        runs.evaluate(*few, *words)
        made = [*passes]
        runs.evaluate(*few, *words)
        assert passes == made  # the second time there is nothing to do
        return made

    assert again() == ["evaluate_model"]
    whole = base.read_bytes()
    trained_again(base)
    assert again() == ["evaluate_model"]
    assert again("saved=true") == ["evaluate_saved"]
    base.write_bytes(whole)
    assert again("saved=true") == []  # which reads no weights of the base
    assert again("save_predictions=true") == ["evaluate_model"]
    (runs.folder / "truth.zip").unlink()
    assert again("save_predictions=true") == ["evaluate_model"]
    assert again("saved=true") == ["evaluate_saved"]
    base_zip = runs.folder / "base.zip"
    change_header(base_zip, lambda header: header.update(conf_thr=0.0))
    assert again("saved=true") == ["evaluate_saved"]
    trained_again(weights)
    with pytest.raises(CheckpointError, match="before it was trained again"):
        runs.evaluate(*few, "saved=true")
    assert again() == ["evaluate_model"]


def test_an_evaluation_that_fails_leaves_the_earlier_results(
    stored: Runs, passes: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs, few = copied(stored, tmp_path), ("saved=true", "compare=[]", "fusion.min_visible=0.2")
    metrics = runs.evaluate(*few)
    with monkeypatch.context() as patch, pytest.raises(DataError):
        patch.setattr(pipeline, "write_results", lambda *args: (_ for _ in ()).throw(DataError("the disk is full")))
        runs.evaluate(*few, "force=true")
    passes.clear()
    assert runs.evaluate(*few) == metrics and passes == []
