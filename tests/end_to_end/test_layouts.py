"""The suite on a few real images of COCO and on files like those of Cityscapes, in the official layouts."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from helpers.tiny_cityscapes import TinyCityscapes, random_street
from helpers.tiny_runs import QUIET, TINY, TinyRun, steps
from panoptic_occ.common.errors import ConfigError

SIZE = (64, 128)


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
    with pytest.raises(ConfigError, match=r"base\.safetensors: trained on other data .*data\.name="):
        of_images(other, tmp_path, *words).train()


def test_oracle_base_on_coco_files(coco_mini: Path, tmp_path: Path) -> None:
    rows = of_images(coco_mini, tmp_path, "experiment=oracle_base", *QUIET).evaluate()["relations"]
    true, smaller, larger, random = (rows[order] for order in ("ground_truth", "area", "larger", "random"))
    assert true["PQ_th"] > smaller["PQ_th"] > random["PQ_th"] > larger["PQ_th"]
    assert smaller["relation_accuracy"] > 0.9 > 0.1 > larger["relation_accuracy"]
    assert true["PQ_th"] > 0.99 and true["PQ_st"] == 1.0


@pytest.fixture(scope="module")
def streets(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A few streets and a network that is far too small."""
    folder, rng = tmp_path_factory.mktemp("cityscapes"), np.random.default_rng(0)
    places = [("train", f"aachen/aachen_00000{k}_000019") for k in range(6)]
    places += [("val", f"ulm/ulm_00000{k}_000019") for k in range(3)]
    tiny = TinyCityscapes(folder / "data", SIZE, {place: random_street(rng, SIZE, 6) for place in places})
    return [
        *("data=cityscapes", f"data.root={tiny.write()}", f"data.source.cache_dir={folder}/cache"),
        *("data.num_workers=0", "data.batch_size=2", "data.train_transform.crop=[48,96]"),
        *("data.eval_transform.short_edge=64", "data.eval_transform.max_edge=128", f"runs_dir={folder}/runs"),
    ]


def test_cityscapes_files_train_and_evaluate(streets: list[str]) -> None:
    run = TinyRun([*TINY, *steps(2, 2), "schedule.reference_batch=2", "run_name=tiny", *streets])
    assert run.train()["images"] == run.metrics["images"] == 3
    assert run.evaluate_folder("fusion.min_visible=0.4", "data.num_workers=0")["images"] == 3


def test_annotations_as_detections_reach_everything_in_the_annotated_order(streets: list[str]) -> None:
    rows = TinyRun(["experiment=oracle_base", *QUIET, "fusion.stuff_area=1", *streets]).evaluate()["relations"]
    true, random = rows["ground_truth"], rows["random"]
    assert true["PQ_st"] == 1.0 and true["PQ_th"] > 0.99 > random["PQ_th"]
    assert true["relation_accuracy"] == 1.0 > random["relation_accuracy"]
