"""The suite on a few real images of COCO, in the official layout."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from helpers.tiny_runs import QUIET, TINY, TinyRun, steps
from panoptic_occ.common.errors import ConfigError


def of_images(root: Path, folder: Path, *words: str) -> TinyRun:
    place = ("data=coco", f"data.root={root}", f"data.source.cache_dir={folder}/cache", "data.num_workers=0")
    return TinyRun([*words, *place, f"runs_dir={folder}"])


def test_coco_files_train_and_evaluate(coco_mini: Path, tmp_path: Path) -> None:
    """A few steps on real images, a portrait and landscape mix, with a network that is far too small."""
    small = ["data.train_transform.short_edge=[96,128]", "data.train_transform.max_edge=200", "data.batch_size=2"]
    words = [*TINY, *small, "data.eval_transform.short_edge=128", *steps(2, 2), "run_name=mini"]
    assert of_images(coco_mini, tmp_path, *words).train()["images"] == 12

    other = tmp_path / "other copy"  # the same but for one byte, and yet nobody knows what else
    shutil.copytree(coco_mini / "annotations", other / "annotations")
    for split in ("train2017", "val2017"):
        (other / split).symlink_to(coco_mini / split)
    file = other / "annotations" / "instances_train2017.json"
    file.write_text(file.read_text() + " ")
    with pytest.raises(ConfigError, match=r"base\.safetensors: trained on other annotations .*data\.name="):
        of_images(other, tmp_path, *words).train()


def test_oracle_base_on_coco_files(coco_mini: Path, tmp_path: Path) -> None:
    rows = of_images(coco_mini, tmp_path, "experiment=oracle_base", *QUIET).evaluate()["relations"]
    true, smaller, larger, random = (rows[order] for order in ("ground_truth", "area", "larger", "random"))
    assert true["PQ_th"] > smaller["PQ_th"] > random["PQ_th"] > larger["PQ_th"]
    assert smaller["relation_accuracy"] > 0.9 > 0.1 > larger["relation_accuracy"]
    assert true["PQ_th"] > 0.99 and true["PQ_st"] == 1.0
