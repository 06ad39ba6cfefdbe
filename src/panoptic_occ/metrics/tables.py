"""Tables of results for the terminal and for text files, in Markdown, so that they can be pasted anywhere."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table
from rich.text import Text

from panoptic_occ.metrics.pq.scores import PQResult

if TYPE_CHECKING:  # it would load torch, and the worker processes of the official files do without
    from panoptic_occ.metrics.breakdown import BreakdownResult
from panoptic_occ.common.tables import _percent, comparison_table


def pq_table(result: PQResult) -> Table:
    """PQ, SQ, RQ in percent and N, for All, Things and Stuff, and for each class below them.

    A class that occurs in neither ground truth nor prediction shows '-'; it is in no average.
    """
    table = Table(title="panoptic quality", box=box.MARKDOWN)
    table.add_column("", no_wrap=True)
    for name in ("PQ", "SQ", "RQ", "N", "TP", "FP", "FN"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, scores in (("All", result.all), ("Things", result.things), ("Stuff", result.stuff)):
        table.add_row(name, _percent(scores.pq), _percent(scores.sq), _percent(scores.rq), str(scores.n))
    for group in (True, False):
        for entry in result.per_class:
            if entry.isthing is group:
                counts = (entry.tp, entry.fp, entry.fn)
                shares = [_percent(value) if any(counts) else "-" for value in (entry.pq, entry.sq, entry.rq)]
                table.add_row(Text(entry.name), *shares, "", *map(str, counts))
    return table


def breakdown_tables(results: Mapping[str, BreakdownResult]) -> list[Table]:
    """PQ of things in every bin, a table for each property, and one of the reasons for false negatives.

    Below the heads stands how many things are annotated in each bin, which is the same for every method.
    """
    tables = []
    for group in dict.fromkeys(entry.group for result in results.values() for entry in result.bins):
        rows: dict[str, dict[str, float]] = {"annotated": {}}
        for method, result in results.items():
            bins = [entry for entry in result.bins if entry.group == group]
            rows["annotated"] = {entry.name: entry.tp + entry.fn for entry in bins}
            rows[method] = {entry.name: entry.pq if entry.tp + entry.fp + entry.fn else math.nan for entry in bins}
        tables.append(comparison_table(rows, f"PQ of things by {group}"))
    reasons = {
        method: {"FN": result.fn, **result.errors, **{f"killed: {way}": n for way, n in result.killed.items()}}
        for method, result in results.items()
    }
    return [*tables, comparison_table(reasons, "annotated things without a match")]
