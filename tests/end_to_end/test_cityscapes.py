"""Training and evaluation on files like those of Cityscapes."""

from __future__ import annotations

import numpy as np
import pytest

from helpers.tiny_cityscapes import TinyCityscapes, random_street
from helpers.tiny_runs import QUIET, TINY, TinyRun, steps

SIZE = (64, 128)


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
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


def test_train_and_evaluate(words: list[str]) -> None:
    run = TinyRun([*TINY, *steps(2, 2), "schedule.reference_batch=2", "run_name=tiny", *words])
    assert run.train()["images"] == run.metrics["images"] == 3
    assert run.evaluate_folder("fusion.min_visible=0.4", "data.num_workers=0")["images"] == 3


def test_annotations_as_detections_reach_everything_in_the_annotated_order(words: list[str]) -> None:
    rows = TinyRun(["experiment=oracle_base", *QUIET, "fusion.stuff_area=1", *words]).evaluate()["relations"]
    true, random = rows["ground_truth"], rows["random"]
    assert true["PQ_st"] == 1.0 and true["PQ_th"] > 0.99 > random["PQ_th"]
    assert true["relation_accuracy"] == 1.0 > random["relation_accuracy"]
