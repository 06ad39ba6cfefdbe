"""Training and evaluation on files like those of Cityscapes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from helpers.tiny_cityscapes import TinyCityscapes, random_street
from helpers.tiny_runs import BASE
from panoptic_occ.commands.evaluating import evaluate
from panoptic_occ.commands.training import train
from panoptic_occ.runs.build import plan_of

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
        *(f"runs_dir={folder}/runs", "processes=1", "data.num_workers=0", "trainer=cpu", "data.batch_size=2"),
        *("data.eval_transform.short_edge=64", "data.eval_transform.max_edge=128", "data.train_transform.crop=[48,96]"),
    ]


def test_train_and_evaluate(words: list[str]) -> None:
    short = [f"schedule.{stage}.{key}" for stage in ("base", "occlusion") for key in ("steps=2", "milestones=[]")]
    options = [*BASE, *words, *short, "schedule.reference_batch=2", "run_name=tiny"]
    metrics = train(plan_of(options))
    assert metrics["images"] == 3
    run = Path(next(word for word in words if word.startswith("runs_dir=")).partition("=")[2]) / "cityscapes" / "tiny"
    assert json.loads((run / "metrics.json").read_text())["images"] == 3
    again = [f"run={run}", "fusion.min_visible=0.4", *BASE[1:]]
    assert evaluate(plan_of(again))["images"] == 3


def test_annotations_as_detections_reach_everything_in_the_annotated_order(words: list[str]) -> None:
    words = ["experiment=oracle_base", *words, "fusion.stuff_area=1", "trainer.enable_progress_bar=false"]
    rows = evaluate(plan_of(words))["relations"]
    true, random = (rows[k] for k in ("ground_truth", "random"))  # type: ignore[index]
    assert true["PQ_st"] == 1.0 and true["PQ_th"] > 0.99 > random["PQ_th"]
    assert true["relation_accuracy"] == 1.0 > random["relation_accuracy"]
