"""Orders side by side on the same detections."""

from __future__ import annotations

import gc
import math
import weakref
from dataclasses import replace
from typing import Any

import pytest
import torch

from helpers.evaluation import PARTS, entries_of, perfect
from panoptic_occ.evaluation import evaluator as evaluation
from panoptic_occ.evaluation.evaluator import Entry, Evaluation
from panoptic_occ.fusion.policy import FusionPolicy
from panoptic_occ.metrics.breakdown import Binning
from panoptic_occ.occlusion.baselines.area import AreaOrder
from panoptic_occ.occlusion.baselines.score import ScoreOrder
from panoptic_occ.structures.base_output import BaseOutput
from panoptic_occ.structures.masks import PairStats
from panoptic_occ.structures.relation import Relation
from panoptic_occ.testing import toy_categories, toy_detections, toy_sample, toy_semantic


def make_evaluation(policy: FusionPolicy | None = None, **options: Any) -> Evaluation:
    policy = policy or FusionPolicy(conf_thr=0, min_visible=0, stuff_area=1)
    return Evaluation(entries_of(policy), toy_categories(), **options)


def test_true_order_of_perfect_detections_is_perfect() -> None:
    evaluation = make_evaluation()
    for seed in range(6):
        sample = toy_sample(5, seed)
        maps = evaluation.update(sample, perfect(sample))
        assert set(maps) == {"score", "area", "ground_truth"}
    rows = evaluation.rows()
    assert rows["ground_truth"]["PQ"] == pytest.approx(1.0, abs=1e-9)
    assert rows["ground_truth"]["relation_accuracy"] == 1.0
    assert rows["score"]["PQ"] < 1.0
    assert rows["score"]["relation_accuracy"] == rows["area"]["score_accuracy"] < 1.0
    assert rows["area"]["relation_accuracy"] == rows["score"]["area_accuracy"]
    assert rows["score"]["coverage"] == 1.0


def test_details_also_count_right_orders_as_rap_does() -> None:
    """Perfect detections whose masks fill their boxes stand for the same annotations in both ways of counting."""
    policy = FusionPolicy(conf_thr=0, min_visible=None, max_occluded=None, stuff_area=1)
    detailed = make_evaluation(policy, details=Binning((4, 9)))
    for seed in range(6):
        sample = toy_sample(2, seed)  # the second one meets all that the first one has in common with it
        detailed.update(sample, perfect(sample))
    for row in detailed.rows().values():
        assert row["relation_accuracy_rap"] == row["relation_accuracy"] and row["pairs_rap"] == row["pairs"] > 1


def test_nothing_to_see_is_no_error() -> None:
    evaluation = make_evaluation()
    row = evaluation.rows()["score"]
    assert math.isnan(row["relation_accuracy"]) and row["pairs"] == 0 and "relation_accuracy_rap" not in row
    assert evaluation.requires == {"target"}


def test_policies_that_erase_see_the_logits() -> None:
    score = ScoreOrder(**PARTS)
    keep, erase = (FusionPolicy(conf_thr=0, stuff_area=1, erase_thr=thr, erase_radius=1) for thr in (None, 0.5))
    entries = [Entry("keep", "score", score, keep), Entry("erase", "score", score, erase)]
    evaluation = Evaluation(entries, toy_categories())
    assert evaluation.requires == {"semantic_logits"}
    sample = toy_sample(1)
    semantic = toy_semantic(sample)
    instances = toy_detections(sample.annotations)
    maps = evaluation.update(sample, BaseOutput(instances, PairStats.of(instances.masks), semantic))
    things = maps["keep"].segments[:1]
    assert maps["erase"].segments == things, "noise is never sure of anything"
    assert len(maps["keep"].segments) == 3
    assert torch.equal(maps["erase"].ids, torch.where(maps["keep"].ids == 1, 1, 0))


def test_nothing_of_an_image_is_kept() -> None:
    evaluation = make_evaluation(details=Binning((4, 9)), timing=True)
    sample = toy_sample(6)
    output = perfect(sample)
    maps = evaluation.update(sample, output)
    parts = (sample, sample.image, sample.target, output, output.instances, output.stats.inter, *maps.values())
    alive = [weakref.ref(part) for part in parts]
    del sample, output, maps, parts
    gc.collect()
    assert [ref() for ref in alive] == [None] * len(alive)


def counted(monkeypatch: pytest.MonkeyPatch, name: str) -> list[object]:
    """Calls of a function of ``evaluation`` from here on."""
    calls: list[object] = []
    function = getattr(evaluation, name)
    monkeypatch.setattr(evaluation, name, lambda *args: calls.append(args) or function(*args))
    return calls


def test_what_entries_share_is_made_once_and_every_row_is_that_of_the_entry_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    policies = [FusionPolicy(conf_thr=thr, min_visible=tau, stuff_area=1) for thr in (0.5, 0.7) for tau in (0.1, 0.6)]
    models = {
        "area": AreaOrder(**PARTS, sig_ratio=0.2),
        "same": AreaOrder(**PARTS, sig_ratio=0.2),  # another module that says the same
        "other": AreaOrder(**PARTS, sig_ratio=0.0, smaller_on_top=False),
    }
    entries = [Entry(f"{name} {k}", name, m, p) for k, p in enumerate(policies) for name, m in models.items()]
    samples = [toy_sample(7, seed) for seed in range(5)]

    def measured(*some: Entry) -> dict[str, object]:
        evaluation = Evaluation(some, toy_categories(), details=Binning((4, 9)))
        for sample in samples:
            evaluation.update(sample, perfect(sample))
        rows, breakdowns = evaluation.rows(), evaluation.breakdowns()
        return {name: (rows[name], breakdowns[name]) for name in rows}

    alone = {name: row for entry in entries for name, row in measured(entry).items()}
    calls = {name: counted(monkeypatch, name) for name in ("fuse", "relate", "panoptic_counts", "match_instances")}
    rows = measured(*entries)
    assert rows == alone
    assert list(rows) == [entry.name for entry in entries] and len({str(row) for row in rows.values()}) > 4
    made = {name: len(some) / len(samples) for name, some in calls.items()}
    assert made["relate"] == 3 * 2 and made["match_instances"] == 2  # orders x conf_thr, conf_thr
    assert made["fuse"] == made["panoptic_counts"] <= 2 * 4  # "same" gives the maps of "area"


def test_times_of_network_and_fusion(monkeypatch: pytest.MonkeyPatch) -> None:
    """The network's time is that of the base and of the relation; a fusion is timed for every entry."""
    entries = [Entry(name, name, AreaOrder(**PARTS), FusionPolicy(stuff_area=1)) for name in ("one", "two")]
    timed, calls = Evaluation(entries, toy_categories(), timing=True), counted(monkeypatch, "fuse")
    for nanoseconds in (70_000_000, 8_000_000):  # two batches of four images; the first warms up
        timed.base_time.update(nanoseconds, 4)
    for seed in range(3):
        timed.update(toy_sample(3, seed), perfect(toy_sample(3, seed)))
    assert len(calls) == 2 * 3
    for row in timed.rows().values():
        assert row["relation_ms"] > 0 and row["network_ms"] == pytest.approx(2.0 + row["relation_ms"])
        assert row["FPS"] == pytest.approx(1000 / (2.0 + row["relation_ms"] + row["fusion_ms"]))


def test_relations_with_claims_are_told_apart() -> None:
    relation = Relation(torch.zeros(2, 2), torch.zeros(2, 2, dtype=torch.bool))
    claims = [toy_sample(2, seed).annotations.masks for seed in (0, 1)]
    one, two = (evaluation._decisions(replace(relation, claims=masks)) for masks in claims)
    assert one != two and one != evaluation._decisions(relation)
    silent = replace(relation, margin=torch.ones(2, 2))  # not valid
    assert evaluation._decisions(silent) == evaluation._decisions(relation)
    for other in (
        replace(relation, order=torch.tensor([1, 0])),
        replace(relation, duplicate_of=torch.tensor([-1, 0])),
        replace(silent, valid=torch.ones(2, 2, dtype=torch.bool)),
    ):
        assert evaluation._decisions(other) != evaluation._decisions(relation)


def test_detections_are_matched_only_where_an_order_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    calls, scored = counted(monkeypatch, "match_instances"), make_evaluation()
    for things, expected in ((1, 0), (6, 1)):
        scored.update(toy_sample(things), perfect(toy_sample(things)))
        assert len(calls) == expected
