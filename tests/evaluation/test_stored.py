"""Stored predictions give what the network gives, without the network."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from helpers.tiny_runs import TinyRun, tiny_run, trained_again
from panoptic_occ.commands import evaluating
from panoptic_occ.common.errors import CheckpointError, ConfigError, DataError
from panoptic_occ.data.coco.dataset import CocoPanoptic
from panoptic_occ.evaluation.evaluator import Evaluation
from panoptic_occ.runs.archive import Archive, ArchiveWriter
from panoptic_occ.runs.predictions import PredictionWriter
from panoptic_occ.runs.weights import WEIGHTS, save_weights, saved_digest, weights_digest
from panoptic_occ.structures.base_output import BaseOutput
from panoptic_occ.structures.panoptic_map import PanopticMap
from panoptic_occ.structures.sample import Sample

NETWORK, STORED = "evaluate_network", "evaluate_predictions"
TO_STORE = r"to store them, run: python -m panoptic_occ\.evaluate experiment=tiny .* save_predictions=true"


@contextmanager
def all_maps() -> Iterator[dict[tuple[int, str], PanopticMap]]:
    """Every map that is made meanwhile, by image and entry."""
    seen: dict[tuple[int, str], PanopticMap] = {}
    update = Evaluation.update

    def watched(self: Evaluation, sample: Sample, output: BaseOutput) -> dict[str, PanopticMap]:
        maps = update(self, sample, output)
        seen.update({(sample.image_id, name): panoptic for name, panoptic in maps.items()})
        return maps

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Evaluation, "update", watched)
        yield seen


def untrained_run(scenes: Path, runs: Path) -> TinyRun:
    """A tiny run with the weights it was born with (nobody asks here whether they are good)."""
    run = tiny_run(scenes, runs)
    plan, _, model = run.built()
    with torch.no_grad():  # answers of both signs, which weights this small would not give
        model.occlusion.head.project.weight.mul_(100)  # type: ignore[union-attr,operator]
    base = model.base_modules()
    save_weights(plan.base.folder.weights("base"), base, {})
    save_weights(plan.order.folder.weights("occlusion"), {"occlusion": model.occlusion}, {"base": weights_digest(base)})
    return run


@pytest.fixture(scope="module")
def stored(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    """A run with its predictions."""
    run = untrained_run(cache, tmp_path_factory.mktemp("stored"))
    run.evaluate("save_predictions=true", "compare=[]")
    return run


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise AssertionError("saved predictions need no network and none of its weights")

    for name in ("build_model", "load_base", "make_trainer"):
        monkeypatch.setattr(evaluating, name, refuse)


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The evaluations that are made, and not only shown."""
    made: list[str] = []
    for name in (NETWORK, STORED):
        make = getattr(evaluating, name)
        monkeypatch.setattr(evaluating, name, lambda *args, name=name, make=make: [made.append(name), make(*args)][1])
    return made


def head_named(weights: Path, base: Path) -> None:
    """Says that the weights of a head were trained on this base."""
    WEIGHTS.write(weights, load_file(weights), {"base": saved_digest(base)})


def archives(run: TinyRun) -> Path:
    return run.plan().evaluation.predictions


def change_header(path: Path, change: Callable[[dict[str, Any]], None], *left_out: int) -> None:
    archive = Archive(path, "")
    header = {key: value for key, value in archive.header.items() if key != "format"}
    change(header)
    with ArchiveWriter(path, header) as writer:
        for image_id in set(archive.image_ids()) - set(left_out):
            writer.add(image_id, archive.read(image_id))


def test_maps_are_those_of_the_network(stored: TinyRun, request: pytest.FixtureRequest) -> None:
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
    images = {image_id for image_id, _ in fused}
    differing = [i for i in images if not torch.equal(fused[i, "score"].ids, fused[i, "ocfusion"].ids)]
    assert len(differing) > 1  # else the comparison would say little


def test_average_precision_is_that_of_the_network(stored: TinyRun, tmp_path: Path) -> None:
    """All detections are ranked, whatever the fusion takes; they are stored only when that is asked for."""
    run, ranked = stored.copied(tmp_path), ("compare=[score]", "average_precision=true", "save_conf_thr=0.05")
    network = run.evaluate(*ranked, "save_predictions=true")["relations"]
    assert run.evaluate(*ranked, "saved=true")["relations"] == network
    assert network["score"]["AP_mask"] == network["ocfusion"]["AP_mask"] > 0
    few = run.evaluate(*ranked, "thing.score_thr=0.3")["relations"]
    assert few["score"]["AP_mask"] < network["score"]["AP_mask"]


@pytest.mark.usefixtures("no_network")
def test_official_maps_and_columns_of_a_grid(stored: TinyRun) -> None:
    stored.evaluate("saved=true", "save_maps=true", "compare=[]", "fusion.min_visible=0.3")
    assert len(list(stored.runs.rglob("evaluations/*min-visible-0.3_*/panoptic/*.png"))) == 8
    grid = "grid={fusion.duplicate_thr: [null, 0.5], occlusion.intra: [false]}"
    stored.evaluate("saved=true", "compare=[area]", grid)
    (file,) = stored.runs.rglob("evaluations/*duplicate-thr*/metrics.csv")
    head, *lines = file.read_text().splitlines()
    assert head.startswith("relation,fusion.duplicate_thr,occlusion.intra,PQ,")
    names = ["area | duplicate_thr=null,,,", '"ocfusion | duplicate_thr=null, intra=False",,False,']
    names += ["area | duplicate_thr=0.5,0.5,,", '"ocfusion | duplicate_thr=0.5, intra=False",0.5,False,']
    assert all(line.startswith(name) for line, name in zip(lines, names, strict=True))


@pytest.mark.usefixtures("no_network")
def test_images_are_read_only_by_methods_that_look_at_them(stored: TinyRun, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: CocoPanoptic, index: int) -> Sample:
        raise DataError("the image was read")

    monkeypatch.setattr(CocoPanoptic, "load", refuse)
    few = ("saved=true", "occlusion=score", "fusion=heuristic", "fusion.conf_thr=0.1")
    stored.evaluate(*few, "compare=[class_prior]")
    with pytest.raises(DataError, match="the image was read"):
        stored.evaluate(*few, "compare=[banet]")


@pytest.mark.parametrize(
    ("words", "error", "message"),
    [
        (["runs_dir=empty"], CheckpointError, rf"base\.zip: the file does not exist; {TO_STORE}$"),
        (["thing.nms_thr=0.7"], CheckpointError, rf"settings \(thing\.nms_thr: 0\.5 -> 0\.7\); {TO_STORE}$"),
        (["fusion.conf_thr=0.05"], ConfigError, rf"conf_thr=0\.05: .*score 0\.1 and more.* {TO_STORE} save_conf_t"),
        (
            ["average_precision=true"],
            ConfigError,
            rf"average_precision=true ranks all .*score 0\.05 .*score 0\.1 .*set average.* {TO_STORE} save_conf_t",
        ),
        (["compare=[upsnet]"], ConfigError, r"occlusion=upsnet reads .*semantic_logits.*; set saved=false"),
        (["save_maps=true", "grid={fusion.conf_thr: [0.2, 0.3]}"], ConfigError, "save_maps=true writes one map"),
    ],
)
@pytest.mark.usefixtures("no_network")
def test_what_is_not_stored_is_named_with_the_way_to_store_it(
    stored: TinyRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], error: Any, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message):
        stored.evaluate("saved=true", *words)


@pytest.mark.usefixtures("no_network")
def test_stores_that_do_not_fit_are_refused(stored: TinyRun, tmp_path: Path) -> None:
    run = stored.copied(tmp_path)
    base, (answers,) = archives(run) / "base.zip", archives(run).glob("ocfusion_*.zip")
    whole = base.read_bytes()

    def refused(error: type[Exception], message: str) -> None:
        with pytest.raises(error, match=message):
            run.evaluate("saved=true", "compare=[]")

    change_header(base, lambda header: header.update(base="others"))
    refused(CheckpointError, r"base\.zip: holds predictions of other weights than .*base\.safetensors, .*; to store")
    change_header(base, lambda header: header.update(data="others"))
    refused(CheckpointError, r"truth\.zip: holds annotations of other data than base\.zip; to store")
    base.write_bytes(whole)
    change_header(base, lambda header: None, Archive(base, "").image_ids()[0])
    change_header(answers, lambda header: header.update(detections=Archive(base, "").header["digest"]))
    refused(CheckpointError, r"base\.zip: 1 images are not in it; to store")
    base.write_bytes(whole[:-40])
    refused(DataError, r"base\.zip: .* cannot be read .*the file is damaged: to store them, run")
    base.write_bytes(whole)
    change_header(answers, lambda header: header.update(detections="others"))
    refused(CheckpointError, r"ocfusion_\w+\.zip: holds head outputs for other detections")
    change_header(answers, lambda header: header.update(detections=Archive(base, "").header["digest"]))
    trained_again(run.plan().order.folder.weights("occlusion"))
    refused(CheckpointError, r"holds head outputs of occlusion=ocfusion from before it was trained again; to store")


def test_an_interrupted_evaluation_leaves_the_store_as_it_was(
    stored: TinyRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, seen, store = stored.copied(tmp_path), [], PredictionWriter.__call__
    before = {path.name: path.read_bytes() for path in archives(run).iterdir()}

    def interrupted(self: PredictionWriter, sample: Any, output: Any, maps: Any) -> None:
        seen.append(sample.image_id)
        if len(seen) == 3:
            raise DataError("the disk is gone")
        store(self, sample, output, maps)

    monkeypatch.setattr(PredictionWriter, "__call__", interrupted)
    with pytest.raises(DataError, match="the disk is gone"):
        run.evaluate("save_predictions=true", "compare=[]", "save_conf_thr=0.05")
    assert {path.name: path.read_bytes() for path in archives(run).iterdir()} == before


def test_an_evaluation_is_made_once_until_files_change(stored: TinyRun, passes: list[str], tmp_path: Path) -> None:
    run, few = stored.copied(tmp_path), ("compare=[]", "fusion.min_visible=0.2")
    plan = run.plan()
    base, weights = plan.base.folder.weights("base"), plan.order.folder.weights("occlusion")

    def again(*words: str) -> list[str]:
        passes.clear()
        metrics = run.evaluate(*few, *words)
        made = [*passes]
        assert run.evaluate(*few, *words) == metrics and passes == made  # the second time there is nothing to do
        return made

    assert again() == [NETWORK]
    assert again("processes=2") == []
    run.evaluate(*few, "force=true")
    assert passes == [NETWORK]
    whole = {path: path.read_bytes() for path in (base, weights)}
    trained_again(base)
    with pytest.raises(CheckpointError, match=r"on other weights of the base .*run: python -m panoptic_occ\.train"):
        run.evaluate(*few)
    head_named(weights, base)
    assert again() == [NETWORK]
    with pytest.raises(CheckpointError, match="holds predictions of other weights"):
        run.evaluate(*few, "saved=true")
    for path, content in whole.items():
        path.write_bytes(content)
    for words in ([], ["compare=[area]"], ["compare=[area]", "save_maps=true"], []):  # all of them into one folder
        assert again("saved=true", *words) == [STORED]
    trained_again(base)
    with pytest.raises(CheckpointError, match="on other weights of the base"):  # and no old numbers
        run.evaluate(*few, "saved=true")
    base.unlink()
    assert again("saved=true") == []  # which reads no weights of the base
    base.write_bytes(whole[base])
    assert again("save_predictions=true") == [NETWORK]
    (archives(run) / "truth.zip").unlink()
    assert again("save_predictions=true") == [NETWORK]
    assert again("saved=true") == [STORED]
    change_header(archives(run) / "base.zip", lambda header: header.update(conf_thr=0.0))
    assert again("saved=true") == [STORED]
    trained_again(weights)
    with pytest.raises(CheckpointError, match="before it was trained again"):
        run.evaluate(*few, "saved=true")
    assert again() == [NETWORK]


def test_an_evaluation_that_fails_leaves_the_earlier_results(
    stored: TinyRun, passes: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object) -> None:
        raise DataError("the disk is full")

    run, few = stored.copied(tmp_path), ("saved=true", "compare=[]", "fusion.min_visible=0.2")
    metrics = run.evaluate(*few)
    (target,) = run.runs.rglob("evaluations/*min-visible-0.2*")
    before = {path: path.read_bytes() for path in target.iterdir() if path.is_file()}
    with monkeypatch.context() as patch, pytest.raises(DataError):
        patch.setattr(evaluating, "write_results", fail)
        run.evaluate(*few, "force=true")
    with pytest.raises(CheckpointError, match="to store them"):
        run.evaluate(*few, "thing.nms_thr=0.7")
    assert {path: path.read_bytes() for path in target.iterdir() if path.is_file()} == before
    passes.clear()
    assert run.evaluate(*few) == metrics and passes == []
