"""What the papers print: ``conf/experiment/<paper>/published.csv``, one line a number, exactly as printed."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from panoptic_occ.common.errors import ConfigError
from panoptic_occ.config.files import conf_dir

GAIN = " gain"
"""Ends the metric of a printed difference to the method's own base, as in ``PQ gain``."""


@dataclass(frozen=True)
class Printed:
    """One number of a table.

    ``value``: as printed, in percent for shares; ``-`` when the paper says why there is none.  ``row`` and ``backbone``
    name the row; ``table`` is empty for numbers that are not from a paper's table.  ``note``: what is odd about it.
    """

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


class Published:
    """The printed numbers of the papers, by paper, table, row, backbone and metric."""

    def __init__(self, lines: Iterable[Printed]) -> None:
        self.lines = tuple(lines)
        self._found = {(p.paper, p.table, p.row, p.backbone, p.metric): p for p in self.lines}

    @classmethod
    def read(cls) -> Published:
        """Everything below ``conf/experiment``; ConfigError names a file with other columns."""
        return cls(line for file in sorted(conf_dir().glob("experiment/*/published.csv")) for line in _lines(file))

    def number(self, paper: str, table: str, row: str, backbone: str, metric: str) -> float | None:
        """The number; None when the table does not print it."""
        found = self._found.get((paper, table, row, backbone, metric))
        return None if found is None else found.number

    def of_row(self, paper: str, table: str, row: str, backbone: str) -> list[Printed]:
        """Everything that a table prints in a row."""
        return [p for p in self.lines if (p.paper, p.table, p.row, p.backbone) == (paper, table, row, backbone)]

    def gain(
        self, paper: str, row: tuple[str, str], base: tuple[str, str] | None, backbone: str, metric: str
    ) -> float | None:
        """The difference of two rows, given as (table, row): as printed, else the row minus the base."""
        printed = self.number(paper, *row, backbone, metric + GAIN)
        if printed is not None or base is None:
            return printed
        ours, theirs = (self.number(paper, *each, backbone, metric) for each in (row, base))
        return None if ours is None or theirs is None else round(ours - theirs, 3)


def first_table(published: Published, paper: str, tables: Sequence[str], row: str, backbone: str, prefer: str) -> str:
    """The first of ``tables`` that prints the row, one of a data set whose name starts with ``prefer`` if there is."""
    printed = {table: lines for table in tables if (lines := published.of_row(paper, table, row, backbone))}
    liked = [table for table, lines in printed.items() if lines[0].dataset.startswith(prefer)]
    return next(iter([*liked, *printed]), tables[0])


def _lines(file: Path) -> list[Printed]:
    names = [field.name for field in fields(Printed)]
    with file.open(encoding="utf-8", newline="") as text:
        reader = csv.DictReader(text)
        if reader.fieldnames != names:
            raise ConfigError(f"{file}: its columns are {reader.fieldnames}; they should be {names}")
        return [Printed(**line) for line in reader]
