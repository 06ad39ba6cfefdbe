"""The suite on a few real images of COCO, in the official layout."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from panoptic_occ.commands.evaluating import evaluate
from panoptic_occ.commands.training import train
from panoptic_occ.common.errors import ConfigError
from panoptic_occ.runs.build import plan_of


def test_coco_files_train_and_evaluate(coco_mini: Path, tmp_path: Path) -> None:
    """A few steps on real images, a portrait and landscape mix, with a network that is far too small."""
    words = [
        "experiment=tiny",
        "trainer=cpu",
        "trainer.enable_progress_bar=false",
        "data=coco",
        f"data.root={coco_mini}",
        f"runs_dir={tmp_path}",
        "run_name=mini",
    ]
    words += [
        f"data.source.cache_dir={tmp_path}/cache",
        "data.train_transform.short_edge=[96,128]",
        "data.batch_size=2",
    ]
    words += ["data.train_transform.max_edge=200", "data.eval_transform.short_edge=128", "data.num_workers=0"]
    words += [
        "schedule.base.steps=2",
        "schedule.base.milestones=[]",
        "schedule.occlusion.steps=2",
        "schedule.occlusion.milestones=[]",
    ]
    metrics = train(plan_of(words))
    assert metrics["images"] == 12

    other = tmp_path / "other copy"  # the same but for one byte, and yet nobody knows what else
    shutil.copytree(coco_mini / "annotations", other / "annotations")
    for split in ("train2017", "val2017"):
        (other / split).symlink_to(coco_mini / split)
    file = other / "annotations" / "instances_train2017.json"
    file.write_text(file.read_text() + " ")
    words = [word for word in words if not word.startswith("data.root=")] + [f"data.root={other}"]
    with pytest.raises(ConfigError, match=r"base\.safetensors: trained on other annotations .*data\.name="):
        train(plan_of(words))


def test_oracle_base_on_coco_files(coco_mini: Path, tmp_path: Path) -> None:
    words = ["experiment=oracle_base", "data=coco", f"data.root={coco_mini}", f"runs_dir={tmp_path}", "trainer=cpu"]
    words += [f"data.source.cache_dir={tmp_path}/cache", "data.num_workers=0", "trainer.enable_progress_bar=false"]
    rows = evaluate(plan_of(words))["relations"]
    true, smaller, larger, random = (rows[k] for k in ("ground_truth", "area", "larger", "random"))  # type: ignore[index]
    assert true["PQ_th"] > smaller["PQ_th"] > random["PQ_th"] > larger["PQ_th"]
    assert smaller["relation_accuracy"] > 0.9 > 0.1 > larger["relation_accuracy"]
    assert true["PQ_th"] > 0.99 and true["PQ_st"] == 1.0
