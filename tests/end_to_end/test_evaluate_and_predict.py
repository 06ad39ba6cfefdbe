"""A trained run evaluated again, and asked about images."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from helpers.tiny_runs import BASE, Trained, options
from panoptic_occ.common.errors import CheckpointError, ConfigError
from panoptic_occ.config.compose import compose
from panoptic_occ.runs.build import plan_of, run_plan


def test_evaluate_a_run_with_other_thresholds(trained: Trained, cache: Path) -> None:
    from panoptic_occ.commands.evaluating import evaluate

    runs, metrics = trained
    folder = runs / "scenes_tiny" / "ocfusion_small_s0"
    words = [f"run={folder}", "trainer=cpu", "trainer.enable_progress_bar=false"]
    assert evaluate(plan_of(words)) == metrics
    words += ["fusion.conf_thr=0.02", "compare=[area]", "save_maps=true"]
    other = evaluate(plan_of(words))
    assert list(other["relations"]) == ["area", "ocfusion"]  # type: ignore[call-overload]
    target = folder / "evaluations" / "fusion.conf-thr-0.02"
    assert json.loads((target / "metrics.json").read_text()) == json.loads(json.dumps(other))
    words = [f"run={folder}", "backbone.depth=2"]
    with pytest.raises(ConfigError, match=r"backbone\.depth: 1 -> 2"):
        evaluate(plan_of(words))
    with pytest.raises(CheckpointError, match="not a run folder"):
        evaluate(plan_of([f"run={runs}/nothing"]))


def test_saved_maps_score_the_same_with_the_official_format(trained: Trained, cache: Path, tmp_path: Path) -> None:
    from panoptic_occ.commands.evaluating import evaluate
    from panoptic_occ.data.coco.layout import Layout
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
    metrics = evaluate(plan_of(words))
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


def test_predict_images(trained: Trained, tmp_path: Path) -> None:
    from panoptic_occ.commands.predicting import predict
    from panoptic_occ.common.errors import DataError

    runs, _ = trained
    folder = runs / "scenes_tiny" / "ocfusion_small_s0"
    (tmp_path / "in").mkdir()
    Image.new("RGB", (150, 100), (200, 30, 30)).save(tmp_path / "in" / "a.png")
    Image.new("L", (64, 97)).save(tmp_path / "in" / "b.jpg")
    words = [f"run={folder}", f"input={tmp_path}/in", f"output={tmp_path}/out", "trainer=cpu", "fusion.conf_thr=0.02"]
    predict(plan_of(words))
    result = json.loads((tmp_path / "out" / "panoptic.json").read_text())
    assert [a["file_name"] for a in result["annotations"]] == ["a.png", "b.png"]
    for name, size in (("a", (150, 100)), ("b", (64, 97))):
        for kind in ("panoptic", "overlays"):
            assert Image.open(tmp_path / "out" / kind / f"{name}.png").size == size
    (tmp_path / "in" / "c.jpg").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"(?s)1 of 3 images .* other 2 are in .*c\.jpg: the image cannot be decoded"):
        predict(run_plan(compose([*words, "force=true"]), words))
    for missing, message in ((f"input={tmp_path}/no", "does not exist"), (f"input={tmp_path}/out", "no image")):
        with pytest.raises(DataError, match=message):
            predict(plan_of([*words, missing]))
    with pytest.raises(ConfigError, match="'input' needs a value"):
        predict(plan_of(words[:1]))


def test_metrics_of_another_thread_are_those_of_the_networks_own(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The metrics work behind the network's back, unless steps are timed; numbers and files are the same."""
    from panoptic_occ.commands.evaluating import evaluate
    from panoptic_occ.evaluation.evaluator import Evaluation

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
        rows = evaluate(plan_of(words))["relations"]
        found[timing] = {
            k: {n: v for n, v in row.items() if not n.endswith("_ms") and n != "FPS"} for k, row in rows.items()
        }  # type: ignore[attr-defined]
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
        evaluate(plan_of(words))


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
