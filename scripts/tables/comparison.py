"""Measured beside published: means, spreads, and the gains of both over their own base.

What the papers print is in ``conf/experiment/<paper>/published.csv``, one line a number, exactly as printed.
"""

from __future__ import annotations

import csv
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields

from panoptic_occ.common.errors import ConfigError
from scripts.suite import conf_dir
from scripts.tables.plan import RowResults, TableResults
from scripts.tables.tables import Row, Table

ZERO = 0.05  # gains below it are none: papers print one decimal
GAIN = " gain"  # ends the metric of a printed difference to the method's own base, as in ``PQ gain``


@dataclass(frozen=True)
class PaperNumber:
    """One number of a table, in percent for shares; ``value``: ``-`` when the paper says why there is none.  ``table``
    is empty for numbers that are not from a paper's table.  ``note``: what is odd about it."""

    paper: str
    table: str
    row: str
    metric: str
    value: str
    backbone: str
    dataset: str
    note: str = ""

    @property
    def number(self) -> float | None:
        """The value as a number; None when the paper prints none."""
        return None if self.value == "-" else float(self.value)


class PaperNumbers:
    """The printed numbers of the papers, by paper, table, row, backbone and metric."""

    def __init__(self, lines: Iterable[PaperNumber]) -> None:
        self.lines = tuple(lines)
        self._by_key = {(p.paper, p.table, p.row, p.backbone, p.metric): p for p in self.lines}

    @classmethod
    def read(cls) -> PaperNumbers:
        """Everything below ``conf/experiment``; ConfigError names a file with other columns."""
        names, lines = [field.name for field in fields(PaperNumber)], []
        for file in sorted(conf_dir().glob("experiment/*/published.csv")):
            with file.open(encoding="utf-8", newline="") as text:
                reader = csv.DictReader(text)
                if reader.fieldnames != names:
                    raise ConfigError(f"{file}: its columns are {reader.fieldnames}; they should be {names}")
                lines += [PaperNumber(**line) for line in reader]
        return cls(lines)

    def number(self, paper: str, table: str, row: str, backbone: str, metric: str) -> float | None:
        """The number; None when the table does not print it."""
        line = self._by_key.get((paper, table, row, backbone, metric))
        return None if line is None else line.number

    def of_row(self, paper: str, table: str, row: str, backbone: str) -> list[PaperNumber]:
        """Everything that a table prints in a row."""
        return [p for p in self.lines if (p.paper, p.table, p.row, p.backbone) == (paper, table, row, backbone)]

    def gain(self, paper: str, row: tuple[str, str], base: tuple[str, str], backbone: str, metric: str) -> float | None:
        """The difference of two rows, given as (table, row): as printed, else the row minus the base."""
        if (printed := self.number(paper, *row, backbone, metric + GAIN)) is not None:
            return printed
        ours, theirs = (self.number(paper, *each, backbone, metric) for each in (row, base))
        return None if ours is None or theirs is None else round(ours - theirs, 3)

    def table_of(self, paper: str, tables: Sequence[str], row: str, backbone: str, prefer: str) -> str:
        """The first of ``tables`` that prints the row, for a data set whose name starts with ``prefer`` if one does."""
        rows = {table: lines for table in tables if (lines := self.of_row(paper, table, row, backbone))}
        preferred = [table for table, lines in rows.items() if lines[0].dataset.startswith(prefer)]
        return next(iter([*preferred, *rows]), tables[0])


@dataclass(frozen=True)
class Estimate:
    """Mean over the seeds, and their standard deviation (None for one seed)."""

    mean: float
    spread: float | None
    n: int

    @classmethod
    def of(cls, values: Iterable[float]) -> Estimate | None:
        """None when there are no values."""
        numbers = list(values)
        spread = statistics.stdev(numbers) if len(numbers) > 1 else None
        return cls(statistics.mean(numbers), spread, len(numbers)) if numbers else None


@dataclass(frozen=True)
class Cell:
    """One metric of one row in percent or milliseconds; gains are over the base of the row, ours paired by seed."""

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


def compare(table: Table, results: TableResults, papers: PaperNumbers) -> list[Line]:
    """The lines of ``table``."""
    prefer = "Cityscapes" if results.data.startswith("cityscapes") else "COCO"
    return [_line(table, row, results, papers, prefer) for row in table.rows]


def _line(table: Table, row: Row, results: TableResults, papers: PaperNumbers, prefer: str) -> Line:
    base = table.base_of(row)
    ours, theirs = results.row(row), results.row(base) if base else None
    places = [
        (papers.table_of(table.paper, (one.table, *table.also), one.published, one.backbone, prefer), one.published)
        for one in (row, base)
        if one
    ]
    printed = {number.metric: number for number in papers.of_row(table.paper, *places[0], row.backbone)}
    cells = []
    for metric in table.metrics:
        values, base_values = _by_seed(ours, metric), _by_seed(theirs, metric)
        gain = Estimate.of(value - base_values[seed] for seed, value in values.items() if seed in base_values)
        printed_gain = papers.gain(table.paper, places[0], places[1], row.backbone, metric) if base else None
        notes = [printed[name].note for name in (metric, f"{metric} gain") if name in printed]
        value = printed[metric].value if metric in printed else None
        note = next(filter(None, notes), "")
        cells.append(Cell(metric, Estimate.of(values.values()), gain, value, printed_gain, note))
    source = (places[0][0], next(iter(printed.values())).dataset) if printed else None
    return Line(row, tuple(cells), len(ours.seeds) if ours else 0, ours.problem if ours else None, source)


def _by_seed(row: RowResults | None, metric: str) -> dict[int, float]:
    """A metric as papers print it: in metrics.json shares are fractions, times are milliseconds already."""
    scale = 1.0 if metric.endswith("_ms") or metric == "FPS" else 100.0
    values = {} if row is None else {seed: numbers.get(metric) for seed, numbers in row.seeds.items()}
    return {seed: scale * value for seed, value in values.items() if value is not None and not math.isnan(value)}
