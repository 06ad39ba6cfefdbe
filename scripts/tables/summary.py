"""All tables in one: how much of each is measured, and how often our gains go the way of the published ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from scripts.tables.comparison import Line, compare
from scripts.tables.measured import Measured
from scripts.tables.published import Published
from scripts.tables.tables import KINDS, Table

HEADER = ("table", "about", "kind", "schedule", "seeds", "rows", "gains", "same", "within spread", "other")


def summary(tables: Iterable[Table], folder: Path, link: str) -> str:
    """A Markdown table with a line for each of ``tables`` that has measurements on the scenes in ``folder``.

    ``rows``: measured of all; ``gains``: over the own base, as far as both the paper and we have one; of these ``same``
    go the same way, some are not larger than their spread over the seeds, others go the other way or nowhere.
    ``link``: the folder as the document's reader finds it.
    """
    published = Published.read()
    rows = [f"| {' | '.join(HEADER)} |", "|---|---|---|---|" + "---:|" * (len(HEADER) - 4)]
    for table in tables:
        name = table.name.replace("/", "_")
        if not (folder / f"{name}.json").exists():
            continue
        measured = Measured.read(folder / f"{name}.json")
        lines = compare(table, measured, published)
        cells = (f"[{table.name}]({link}/{name}.md)", table.title, KINDS[table.kind], measured.schedule, *counts(lines))
        rows.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(rows)


def counts(lines: Iterable[Line]) -> tuple[int, str, int, int, int, int]:
    """Seeds, measured rows of all, compared gains, and of these: same way, within spread, other."""
    lines = list(lines)
    found = Counter(cell.direction for line in lines for cell in line.cells if cell.direction)
    measured = sum(line.seeds > 0 for line in lines)
    seeds = max((line.seeds for line in lines), default=0)
    same, within = found["same"], found["within spread"]
    return seeds, f"{measured}/{len(lines)}", found.total(), same, within, found.total() - same - within
