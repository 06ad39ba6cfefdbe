"""A run folder on another machine, and on other data than its own."""

from __future__ import annotations

import json
import logging
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from helpers.tiny_runs import QUIET, TinyRun, read
from panoptic_occ import evaluate
from panoptic_occ.commands import evaluating
from panoptic_occ.common.errors import ConfigError
from panoptic_occ.runs.build import plan_of

MACHINE: dict[str, object] = {
    "processes": 7, "data.num_workers": 9, "data.eval_batch_size": 3, "trainer.accelerator": "gpu",
    "trainer.devices": 4, "trainer.num_nodes": 2, "trainer.strategy": "ddp",
}  # fmt: skip


@pytest.fixture(scope="module")
def on_coco(cache: Path, trained: TinyRun, tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    """A run without weights, on files in the layout of COCO, with ``test``, the first three images of ``val``."""
    (scenes,) = (cache / "scenes").glob("*_val8_*")
    root = shutil.copytree(scenes, tmp_path_factory.mktemp("coco") / "root")
    notes = root / "annotations"
    (root / "test").symlink_to(root / "val")
    (notes / "panoptic_test").symlink_to(notes / "panoptic_val")
    for kind in ("panoptic", "instances"):
        content = read(notes / f"{kind}_val.json")
        images = content["images"][:3]
        kept = [a for a in content["annotations"] if a["image_id"] in [image["id"] for image in images]]
        (notes / f"{kind}_test.json").write_text(json.dumps({**content, "images": images, "annotations": kept}))
    words = ["data=coco", f"data.root={root}", "data.source.train_split=train", "data.source.val_split=val"]
    words += ["experiment=oracle_base", "compare=[area]", f"data.source.cache_dir={root}", f"runs_dir={root.parent}"]
    run = TinyRun([*QUIET, "data.num_workers=0", *words])
    run.train()
    return run


def test_a_run_of_a_larger_machine(trained: TinyRun, tmp_path: Path) -> None:
    run = trained.copied(tmp_path)
    config = OmegaConf.load(run.folder / "config.yaml")
    for key, value in MACHINE.items():
        OmegaConf.update(config, key, value)
    OmegaConf.save(config, run.folder / "config.yaml")
    plan = plan_of([f"run={run.folder}"])
    assert plan.processes is None
    assert {key: plan.trainer.settings[key] for key in ("accelerator", "devices", "num_nodes", "strategy")} == {
        "accelerator": "auto", "devices": 1, "num_nodes": 1, "strategy": "auto"
    }  # fmt: skip
    assert (plan.data.settings["num_workers"], plan.data.settings["eval_batch_size"]) == (0, 8)
    assert evaluating.evaluate(plan)["relations"] == trained.metrics["relations"]


def test_words_are_checked_against_the_settings_of_the_run(
    on_coco: TinyRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By itself the command line is about scenes, which have no root."""
    moved = shutil.copytree(on_coco.runs / "root", tmp_path / "moved")
    words = [f"run={on_coco.folder}", *QUIET, "data.num_workers=0", f"data.root={moved}"]
    command = [sys.executable, "-m", "panoptic_occ.evaluate", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    folder = Path(done.stdout.rpartition("Results, per-class tables and pictures: ")[2].strip())
    assert read(folder / "metrics.json") == on_coco.metrics
    assert read(folder / "made_from.json")["settings"]["data.source.root"] == str(moved)

    monkeypatch.setattr(sys, "argv", ["evaluate", f"run={on_coco.folder}", f"data.roto={moved}"])
    monkeypatch.setattr(logging.root, "handlers", [*logging.root.handlers])
    with pytest.raises(SystemExit, match=r"'data' has no key 'roto'; did you mean 'root'\? allowed: .*stuff_area"):
        evaluate.main()


@pytest.mark.parametrize(
    ("fixture", "word", "images"),
    [("trained", "data.source.val_images=5", 5), ("on_coco", "data.source.val_split=test", 3)],
)
def test_other_images_have_results_of_their_own(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, fixture: str, word: str, images: int
) -> None:
    run: TinyRun = request.getfixturevalue(fixture)
    default = run.folder / "evaluations" / "default"
    assert run.evaluate_folder("data.num_workers=0")["images"] == 8
    before = {path: path.stat().st_mtime_ns for path in default.rglob("*")}
    others = {path.name for path in default.parent.iterdir()}
    metrics = run.evaluate_folder("data.num_workers=0", word)
    assert metrics["images"] == images
    (name,) = {path.name for path in default.parent.iterdir() if not path.name.startswith(".")} - others
    assert name.startswith(f"on-{run.plan().data_name}-") and read(default.with_name(name) / "metrics.json") == metrics
    assert {path: path.stat().st_mtime_ns for path in default.rglob("*")} == before
    monkeypatch.delattr(evaluating, "evaluate_network")
    assert run.evaluate_folder("data.num_workers=0", word) == metrics


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ('"sand"', '"shore"', r"104 'sand' \(stuff\), 104 'shore' \(stuff\)"),
        (r'(?<="id": |_id": )104\b', "99", r"99 'sand' \(stuff\), 104 'sand' \(stuff\)"),
        ('"sand", "isthing": 0', '"sand", "isthing": 1', r"104 'sand' \(stuff\), 104 'sand' \(thing\)"),
    ],
)
def test_other_categories_are_named(on_coco: TinyRun, tmp_path: Path, old: str, new: str, named: str) -> None:
    root = shutil.copytree(on_coco.runs / "root", tmp_path / "root")
    for file in (root / "annotations").glob("panoptic_*.json"):
        file.write_text(re.sub(old, new, file.read_text()))
    message = rf"panoptic_val\.json: its categories are not those .* has {named}\. Evaluate on data with the same ids"
    with pytest.raises(ConfigError, match=message):
        on_coco.evaluate_folder(f"data.root={root}", "data.num_workers=0")
