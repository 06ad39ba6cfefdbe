"""The cross table (relations x policies), from the configuration to the files."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import pytest

from helpers.tiny_runs import QUIET, TinyRun, read
from panoptic_occ.common.errors import ConfigError
from panoptic_occ.config.compose import compose
from panoptic_occ.evaluation.report import read_rows, summary
from panoptic_occ.runs.build import plan_of

RELATIONS = ["score", "area", "larger", "class_prior", "random", "banet", "ground_truth"]
POLICIES = ["plain", "same class", "duplicates", "both"]


def cells(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if "|" in line]


@pytest.fixture(scope="module")
def run(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    """Annotations as detections."""
    words = ["experiment=cross_oracle", "data=scenes_tiny", *QUIET, f"data.source.cache_dir={cache}"]
    return TinyRun([*words, f"runs_dir={tmp_path_factory.mktemp('cross')}"])


@pytest.fixture(scope="module")
def finished(run: TinyRun) -> Path:
    """The folder of the cross table."""
    run.evaluate()
    (metrics,) = run.runs.glob("scenes_tiny/*/evaluations/*/metrics.json")
    return metrics.parent


def test_every_relation_with_every_policy(finished: Path) -> None:
    rows = read_rows(read(finished / "metrics.json"))
    assert list(rows) == [f"{relation} | {policy}" for policy in POLICIES for relation in RELATIONS]
    truth, score = rows["ground_truth | plain"], rows["score | plain"]
    assert truth["PQ"] == truth["relation_accuracy"] == 1.0 and truth["by_score"] == 0.0
    assert score["by_score"] == 1.0 and math.isnan(score["cycle_rate"]) and score["triples"] == 0
    assert 0 < rows["class_prior | plain"]["by_score"] < 1  # pairs of one class
    for policy in POLICIES:  # policies change what is kept, not who lies in front
        for relation in RELATIONS:
            row, plain = rows[f"{relation} | {policy}"], rows[f"{relation} | plain"]
            same = ("relation_accuracy", "coverage", "by_score", "overlaps", "triples", "cycles", "relation_ms")
            assert repr([row[key] for key in same]) == repr([plain[key] for key in same])
            assert row["fusion_ms"] > 0 and row["relation_ms"] > 0
    with (finished / "metrics.csv").open() as file:
        assert [line["relation"] for line in csv.DictReader(file)] == list(rows)


def test_the_table_is_grouped_by_policy(finished: Path) -> None:
    heads, _, *lines = cells((finished / "metrics.md").read_text())
    assert [line[1] for line in lines] == RELATIONS * len(POLICIES)
    assert [line[0] for line in lines if line[0]] == POLICIES
    assert heads[2:] == [
        *("PQ", "SQ", "RQ", "PQ th", "SQ th", "RQ th", "PQ st", "SQ st", "RQ st"),
        *("order right", "coverage", "cycles", "by score", "network ms", "relation ms", "fusion ms"),
    ]
    assert lines[6][2] == "100.0" and lines[0][heads.index("cycles")] == "-"


def test_the_breakdown_is_written(finished: Path) -> None:
    breakdowns = read(finished / "breakdown.json")
    assert len(breakdowns) == len(RELATIONS) * len(POLICIES)
    for row in breakdowns.values():
        for group in ("overlap", "size", "neighbours"):
            bins = row[group].values()
            assert sum(entry["fn"] for entry in bins) == row["fn"] == sum(row["errors"].values())
        assert row["errors"]["missed"] == row["errors"]["wrong_class"] == 0  # every annotation is a detection
    assert breakdowns["ground_truth | plain"]["fn"] == 0 < breakdowns["larger | plain"]["fn"]
    by_check = dict.fromkeys(POLICIES, 0)
    for name, row in breakdowns.items():
        by_check[name.partition(" | ")[2]] += row["killed"]["same_class"]
    assert by_check["plain"] == by_check["duplicates"] == 0 and by_check["same class"] == by_check["both"]
    text = (finished / "breakdown.txt").read_text()
    assert all(f"PQ of things by {group}" in text for group in ("overlap", "size", "neighbours"))


def test_the_trained_table_composes() -> None:
    plan = plan_of(["experiment=cross"])
    orders = [order.name for order in plan.orders]
    assert [policy.title for policy in plan.evaluation.policies] == POLICIES
    assert {"oanet", "ocfusion", "banet", "rap", "refine"} < set(orders) and orders[0] == "score"
    assert {compose(["experiment=cross", f"occlusion={name}"]).fusion.conf_thr for name in orders} == {0.5}


def test_few_columns_without_policies() -> None:
    row = {"PQ": 0.5, "SQ": 0.5, "RQ": 0.5, "PQ_th": 0.25, "PQ_st": 0.75, "relation_accuracy": 0.875, "pairs": 8}
    old, new = {"score": row}, {"score": row | {"by_score": 1.0, "relation_ms": 0.125, "fusion_ms": math.nan}}
    assert cells(summary(old, "t"))[0][-2:] == ["order right", "pairs"]  # of a run before there was more
    heads, _, line = cells(summary(new, "t"))
    assert dict(zip(heads, line, strict=True)) == {
        "": "score", "PQ": "50.0", "SQ": "50.0", "RQ": "50.0", "PQ things": "25.0", "PQ stuff": "75.0",
        "order right": "87.5", "pairs": "8", "by score": "100.0", "relation ms": "0.12", "fusion ms": "-",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["save_predictions=true", "oracle=[stuff]"], r"save_predictions=true stores .*oracle=\['stuff'\] replaces"),
        (["saved=true", "oracle=[box]"], r"oracle=\['box'\]: masks in other boxes.*set saved=false"),
        (["data.object_sizes=[96,32]"], "data.object_sizes"),
    ],
)
def test_what_cannot_be_is_refused(run: TinyRun, words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run.evaluate(*words)
