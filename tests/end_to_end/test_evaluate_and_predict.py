"""A trained run evaluated again, and asked about images."""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest

from helpers.tiny_runs import QUIET, TinyRun, read
from panoptic_occ.commands.evaluating import evaluate
from panoptic_occ.common.errors import ConfigError
from panoptic_occ.data.coco.annotations import Layout
from panoptic_occ.evaluation.evaluator import Evaluation
from panoptic_occ.pq import main as pq
from panoptic_occ.runs.build import plan_of


def test_evaluate_a_run_with_other_thresholds(trained: TinyRun, cache: Path, tmp_path: Path) -> None:
    """Its maps score the same with the official format."""
    assert trained.evaluate_folder() == trained.metrics
    words = ["fusion.conf_thr=0.02", "compare=[area]", "save_maps=true"]
    metrics = trained.evaluate_folder(*words)
    assert list(metrics["relations"]) == ["area", "ocfusion"]
    target = trained.folder / "evaluations" / "fusion.conf-thr-0.02"
    assert read(target / "metrics.json") == metrics
    (root,) = (cache / "scenes").iterdir()
    truth = Layout.of(root, "val")
    files = {"gt_json_file": truth.panoptic_json, "gt_folder": truth.panoptic}
    files |= {"pred_json_file": target / "panoptic.json", "pred_folder": target / "panoptic"}
    arguments = [word for name, path in files.items() for word in (f"--{name}", str(path))]
    assert pq([*arguments, "--json", str(tmp_path / "pq.json"), "--processes", "1"]) == 0
    official, ours = read(tmp_path / "pq.json"), metrics["relations"]["ocfusion"]
    assert official["All"]["pq"] == ours["PQ"] and official["Things"]["rq"] == ours["RQ_th"]


def test_what_training_fixed_cannot_change(trained: TinyRun) -> None:
    for word, change in (("backbone.depth=2", "backbone\\.depth: 1 -> 2"), ("data.batch_size=3", "batch_size: 4 -> 3")):
        with pytest.raises(ConfigError, match=f"its base was trained with other settings: .*{change}"):
            trained.evaluate_folder(word)


def test_metrics_of_another_thread_are_those_of_the_networks_own(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The metrics work behind the network's back, unless steps are timed; numbers and files are the same."""
    threads: set[bool] = set()
    update = Evaluation.update

    def watched(*args: Any) -> Any:
        threads.add(threading.current_thread() is threading.main_thread())
        return update(*args)

    monkeypatch.setattr(Evaluation, "update", watched)
    words = [f"data.source.cache_dir={cache}", "experiment=oracle_base", "data=scenes_tiny", *QUIET]
    written = {}
    for timing in (False, True):
        rows: Any = evaluate(plan_of([*words, f"runs_dir={tmp_path}/{timing}", f"timing={str(timing).lower()}"]))
        written[timing] = {
            order: {name: number for name, number in row.items() if not name.endswith("_ms") and name != "FPS"}
            for order, row in rows["relations"].items()
        }
        assert threads == {timing}
        threads.clear()
    assert json.dumps(written[False]) == json.dumps(written[True])
    for name in ("pq.json", "pictures.png"):
        one, other = tmp_path.rglob(name)
        assert one.read_bytes() == other.read_bytes()

    def broken(*args: Any) -> Any:
        raise ValueError("a map of another size")

    monkeypatch.setattr(Evaluation, "update", broken)
    with pytest.raises(ValueError, match="a map of another size"):
        evaluate(plan_of([*words, f"runs_dir={tmp_path}/broken"]))


def test_a_group_chosen_for_a_run_reads_what_the_run_chose(trained: TinyRun, tmp_path: Path) -> None:
    """``fusion=rap`` takes the smallest stuff area from the run's data, not from the default data."""
    plan = trained.plan("data.stuff_area=33", "save_predictions=true", f"runs_dir={tmp_path}")
    plan.folder.path.mkdir(parents=True)
    shutil.copy(trained.folder / "categories.json", plan.folder.path)
    plan.folder.config.write_text(plan.order.config)
    assert trained.plan("fusion=rap").policy.stuff_area == 64
    later = plan_of([f"run={plan.folder.path}", "fusion=rap"])
    assert (later.policy.min_visible, later.policy.stuff_area) == (0.6, 33)
    assert not later.evaluation.save_predictions  # a flag of the first command, not of the run
