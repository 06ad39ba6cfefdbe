"""A small table, measured by hand, and what a paper is said to print."""

from __future__ import annotations

import pytest

from scripts.tables.comparison import Line, PaperNumber, PaperNumbers, compare
from scripts.tables.plan import RowResults, TableResults
from scripts.tables.tables import Row, Table

BASE = "Base"


def row(name: str, **more: object) -> Row:
    fields = {"name": name, "backbone": "R50", "table": "3", "published": name, "base": BASE, **more}
    return Row(**fields)  # type: ignore[arg-type]


ROWS = (row(BASE), row("up"), row("down"), row("noisy"), row("off*"))
TABLE = Table("ocfusion/table3", "ocfusion", "3", "parts & pieces", "head", ("PQ", "relation_accuracy"), ROWS)


def row_results(name: str, *pq: float, **more: object) -> RowResults:
    seeds = {seed: {"PQ": value, "relation_accuracy": None} for seed, value in enumerate(pq)}
    fields = {"name": name, "backbone": "R50", "stands_for": "small", "words": (f"a={name}",), "seeds": seeds, **more}
    return RowResults(**fields)  # type: ignore[arg-type]


MEASURED = (
    row_results(BASE, 0.500, 0.520, 0.510, minutes=1.5),
    row_results("up", 0.510, 0.540, 0.525),
    row_results("down", 0.490, 0.500, 0.500),
    row_results("noisy", 0.501, 0.519, 0.512),
    row_results("off*", problem="nothing stands for R50 on this data"),
)
RESULTS = TableResults("ocfusion/table3", "scenes", "scenes_small", (0, 1, 2), 200, {"python": "3.11"}, MEASURED)


def printed(name: str, metric: str, value: str, note: str = "") -> PaperNumber:
    return PaperNumber("ocfusion", "3", name, metric, value, "R50", "COCO val", note)


PAPERS = PaperNumbers(
    [
        printed(BASE, "PQ", "39.5"),
        printed("up", "PQ", "41.3"),
        printed("up", "PQ gain", "+1.9", "sic; 1.8 by the rows"),
        printed("down", "PQ", "40.0"),
        printed("noisy", "PQ", "40.5"),
        printed("off*", "PQ", "39.5"),
        printed("down", "relation_accuracy", "90.25"),
    ]
)


@pytest.fixture
def table() -> Table:
    return TABLE


@pytest.fixture
def results() -> TableResults:
    return RESULTS


@pytest.fixture
def papers() -> PaperNumbers:
    return PAPERS


@pytest.fixture
def lines() -> list[Line]:
    return compare(TABLE, RESULTS, PAPERS)
