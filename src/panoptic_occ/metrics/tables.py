"""Tables of the panoptic quality and of its breakdown."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from panoptic_occ.common.tables import comparison_table, percent, text_table
from panoptic_occ.metrics.pq.scores import PQResult

if TYPE_CHECKING:  # it would load torch, and the worker processes of the official files do without
    from panoptic_occ.metrics.breakdown import BreakdownResult


def pq_table(result: PQResult) -> str:
    """PQ, SQ, RQ in percent and N, for All, Things and Stuff, and for each class below them, things first.

    A class that occurs in neither ground truth nor prediction shows '-'; it is in no average.
    """
    rows = [
        [name, percent(scores.pq), percent(scores.sq), percent(scores.rq), str(scores.n), "", "", ""]
        for name, scores in (("All", result.all), ("Things", result.things), ("Stuff", result.stuff))
    ]
    for scores in sorted(result.per_class, key=lambda scores: not scores.isthing):
        counts = (scores.tp, scores.fp, scores.fn)
        shares = [percent(value) if any(counts) else "-" for value in (scores.pq, scores.sq, scores.rq)]
        rows.append([scores.name, *shares, "", *map(str, counts)])
    return text_table(["", "PQ", "SQ", "RQ", "N", "TP", "FP", "FN"], rows, "panoptic quality")


def breakdown_tables(results: Mapping[str, BreakdownResult]) -> list[str]:
    """PQ of things in every bin, a table for each property, and one of the reasons for false negatives.

    Below the heads stands how many things are annotated in each bin, which is the same for every order.
    """
    tables = []
    for group in dict.fromkeys(group for result in results.values() for group in result.groups):
        rows: dict[str, dict[str, float]] = {"annotated": {}}
        for order, result in results.items():
            bins = result.groups[group].items()
            rows["annotated"] = {name: scores.tp + scores.fn for name, scores in bins}
            rows[order] = {name: b.pq if b.tp + b.fp + b.fn else math.nan for name, b in bins}
        tables.append(comparison_table(rows, f"PQ of things by {group}"))
    reasons = {
        order: {"FN": result.fn, **result.errors, **{f"killed: {way}": n for way, n in result.killed.items()}}
        for order, result in results.items()
    }
    return [*tables, comparison_table(reasons, "annotated things without a match")]
