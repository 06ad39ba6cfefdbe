"""Measured beside published: means, spreads, and the gains of both over their own base."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from scripts.tables.measured import Measured, MeasuredRow
from scripts.tables.published import Published, first_table
from scripts.tables.tables import Row, Table

ZERO = 0.05
"""Gains below it are none: papers print one decimal."""


@dataclass(frozen=True)
class Estimate:
    """Mean over the seeds, and their standard deviation (None for one seed)."""

    mean: float
    spread: float | None
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Estimate | None:
        """None when there are no values."""
        if not values:
            return None
        return cls(statistics.mean(values), statistics.stdev(values) if len(values) > 1 else None, len(values))


@dataclass(frozen=True)
class Cell:
    """One metric of one row, in the units that papers print (percent, milliseconds).

    ``printed`` is the text of the paper; gains are over the base of the row, ours paired by seed.
    """

    metric: str
    measured: Estimate | None
    gain: Estimate | None
    printed: str | None
    printed_gain: float | None
    note: str

    @property
    def direction(self) -> str:
        """Whether our gain goes the way of the published one; empty when one of them is not known."""
        return "" if self.gain is None or self.printed_gain is None else direction(self.gain, self.printed_gain)


@dataclass(frozen=True)
class Line:
    """A row of the comparison.  ``source``: the published table and data set that its printed numbers come from."""

    row: Row
    cells: tuple[Cell, ...]
    seeds: int
    problem: str | None
    source: tuple[str, str] | None


def direction(gain: Estimate, printed: float) -> str:
    """``same`` or ``opposite`` sign; ``within spread`` when our gain is not larger than its spread over the seeds;
    ``no change`` when only ours is nearly zero, ``unlike`` when only the printed one is."""
    if abs(printed) < ZERO and abs(gain.mean) < ZERO:
        return "same"
    if gain.spread is not None and abs(gain.mean) <= gain.spread:
        return "within spread"
    if abs(gain.mean) < ZERO:
        return "no change"
    if abs(printed) < ZERO:
        return "unlike"
    return "same" if gain.mean * printed > 0 else "opposite"


def scale(metric: str) -> float:
    """From metrics.json to what papers print: shares are percent there, times are not."""
    return 1.0 if metric.endswith("_ms") or metric == "FPS" else 100.0


def compare(table: Table, measured: Measured | None, published: Published) -> list[Line]:
    """The lines of ``table``; without ``measured`` only what the paper prints."""
    prefer = "Cityscapes" if measured is not None and measured.data.startswith("cityscapes") else "COCO"
    return [_line(table, row, measured, published, prefer) for row in table.rows]


def _line(table: Table, row: Row, measured: Measured | None, published: Published, prefer: str) -> Line:
    ours = None if measured is None else measured.row(row.name, row.backbone)
    base = table.base_of(row)
    theirs = None if measured is None or base is None else measured.row(base.name, base.backbone)
    place = _place(table, row, published, prefer)
    base_place = None if base is None else _place(table, base, published, prefer)
    cells = []
    for metric in table.metrics:
        lines = {p.metric: p for p in published.of_row(table.paper, *place, row.backbone)}
        printed_gain = published.gain(table.paper, place, base_place, row.backbone, metric) if base else None
        notes = [lines[name].note for name in (metric, f"{metric} gain") if name in lines]
        cells.append(
            Cell(
                metric,
                Estimate.of(_values(ours, metric)),
                Estimate.of(_differences(ours, theirs, metric)),
                lines[metric].value if metric in lines else None,
                printed_gain,
                next((note for note in notes if note), ""),
            )
        )
    found = published.of_row(table.paper, *place, row.backbone)
    source = (place[0], found[0].dataset) if found else None
    return Line(row, tuple(cells), len(ours.seeds) if ours else 0, ours.problem if ours else None, source)


def _place(table: Table, row: Row, published: Published, prefer: str) -> tuple[str, str]:
    """The published table and row of ``row``."""
    tables = (row.table, *table.also)
    return first_table(published, table.paper, tables, row.published, row.backbone, prefer), row.published


def _values(row: MeasuredRow | None, metric: str) -> list[float]:
    return list(_by_seed(row, metric).values())


def _differences(row: MeasuredRow | None, base: MeasuredRow | None, metric: str) -> list[float]:
    ours, theirs = _by_seed(row, metric), _by_seed(base, metric)
    return [value - theirs[seed] for seed, value in ours.items() if seed in theirs]


def _by_seed(row: MeasuredRow | None, metric: str) -> dict[int, float]:
    found = {} if row is None else {seed: values.get(metric) for seed, values in row.seeds.items()}
    return {s: scale(metric) * v for s, v in found.items() if v is not None and not math.isnan(v)}
