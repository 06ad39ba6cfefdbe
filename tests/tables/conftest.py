"""A small table, measured by hand, and what a paper is said to print."""

from __future__ import annotations

import pytest

from scripts.tables.comparison import Line, compare
from scripts.tables.measured import Measured, MeasuredRow
from scripts.tables.published import Printed, Published
from scripts.tables.tables import Row, Table

BASE = "Base"


def row(name: str, **more: object) -> Row:
    fields = {"name": name, "backbone": "R50", "table": "3", "published": name, "base": BASE, **more}
    return Row(**fields)  # type: ignore[arg-type]


TABLE = Table(
    "ocfusion/table3",
    "ocfusion",
    "3",
    "parts & pieces",
    "head",
    ("PQ", "relation_accuracy"),
    (row(BASE), row("up"), row("down"), row("noisy"), row("off*")),
)


def measured_row(name: str, *pq: float, **more: object) -> MeasuredRow:
    seeds = {seed: {"PQ": value, "relation_accuracy": None} for seed, value in enumerate(pq)}
    fields = {"name": name, "backbone": "R50", "stands_for": "small", "words": (f"a={name}",), "seeds": seeds, **more}
    return MeasuredRow(**fields)  # type: ignore[arg-type]


MEASURED = Measured(
    "ocfusion/table3",
    "scenes",
    "scenes_small",
    (0, 1, 2),
    200,
    {"python": "3.11"},
    (
        measured_row(BASE, 0.500, 0.520, 0.510, minutes=1.5),
        measured_row("up", 0.510, 0.540, 0.525),
        measured_row("down", 0.490, 0.500, 0.500),
        measured_row("noisy", 0.501, 0.519, 0.512),
        measured_row("off*", problem="nothing stands for R50 on this data"),
    ),
)


def printed(name: str, metric: str, value: str, note: str = "") -> Printed:
    return Printed("ocfusion", "3", name, metric, value, "R50", "COCO val", note)


PUBLISHED = Published(
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
    """Five rows, the last one pending."""
    return TABLE


@pytest.fixture
def measured() -> Measured:
    """Three seeds of four of them."""
    return MEASURED


@pytest.fixture
def published() -> Published:
    """What the paper is said to print."""
    return PUBLISHED


@pytest.fixture
def lines() -> list[Line]:
    """Both side by side."""
    return compare(TABLE, MEASURED, PUBLISHED)
