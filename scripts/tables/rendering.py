"""A comparison as Markdown, LaTeX and CSV, and the summary of all of them."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tabulate import tabulate

from scripts import documents
from scripts.tables.comparison import Cell, Estimate, Line, PaperNumbers, compare
from scripts.tables.plan import TableResults
from scripts.tables.tables import KINDS, Table

PAPERS = {"oanet": "OANet", "ocfusion": "OCFusion", "banet": "BANet", "rap": "RAP", "refine": "REFINE"}
HEADINGS = {
    "PQ_th": "PQ things", "PQ_st": "PQ stuff", "SQ_th": "SQ things", "RQ_th": "RQ things", "AP_box": "AP boxes",
    "AP_mask": "AP masks", "relation_accuracy": "order right", "relation_accuracy_rap": "order right, as RAP counts",
    "network_ms": "network, ms", "relation_ms": "relation, ms", "fusion_ms": "fusion, ms", "FPS": "images/s",
}  # fmt: skip
SUMMARY = ("table", "about", "kind", "schedule", "seeds", "rows", "gains", "same", "within spread", "other", "minutes")
NAMED_ROWS = 3  # a note about more rows counts them


@dataclass(frozen=True)
class Sheet:
    """A table of text with a title and notes below it."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...]


def sheet(table: Table, results: TableResults, lines: Sequence[Line]) -> Sheet:
    """The text of a comparison; columns that no row fills are left out."""
    columns: list[tuple[str, list[str]]] = [("", [line.row.name for line in lines])]
    if len({line.row.backbone for line in lines}) > 1:
        columns.append(("backbone", [line.row.backbone for line in lines]))
    for k, metric in enumerate(table.metrics):
        cells = [line.cells[k] for line in lines]
        digits = min(2, max([1, *(len(cell.printed.partition(".")[2]) for cell in cells if cell.printed)]))
        columns.append((HEADINGS.get(metric, metric), [_ours(cell, digits) for cell in cells]))
        published = ("paper", [_theirs(cell, digits) for cell in cells])
        directions = ("direction", [cell.direction for cell in cells])
        columns += [column for column in (published, directions) if any(column[1])]
    rows = tuple(zip(*(texts for _, texts in columns), strict=True))
    return Sheet(title(table), tuple(name for name, _ in columns), rows, tuple(_notes(results, lines)))


def title(table: Table) -> str:
    """Paper and number, and what the table is about."""
    return f"{PAPERS[table.paper]}, Table {table.table}: {table.title}" if table.paper in PAPERS else table.title


def markdown(shown: Sheet) -> str:
    """A Markdown table between its title and its notes."""
    table = documents.markdown(shown.header, [[_plain(cell) for cell in row] for row in shown.rows])
    return "\n".join([f"**{shown.title}**", "", table, "", *(f"- {_plain(note)}" for note in shown.notes)]) + "\n"


def latex(shown: Sheet) -> str:
    r"""A LaTeX tabular (needs ``\usepackage{booktabs}``) below its title and notes as comments."""
    sides = ["left"] + ["right"] * (len(shown.header) - 1)
    table = tabulate(shown.rows, shown.header, tablefmt="latex_booktabs", colalign=sides, disable_numparse=True)
    return "\n".join([*(f"% {line}" for line in (shown.title, *shown.notes)), table.replace("±", r"$\pm$")]) + "\n"


def comma_separated(lines: Sequence[Line]) -> str:
    """One line a row and metric, with all digits."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = "row backbone metric mean spread seeds gain gain_spread published published_gain direction note"
    writer.writerow(names.split())
    for line, cell in _cells(lines):
        ours, gain = ((e.mean, e.spread, e.n) if e else (None, None, 0) for e in (cell.measured, cell.gain))
        numbers = *ours, *gain[:2], cell.printed, cell.printed_gain
        note = cell.note or line.problem
        writer.writerow([line.row.name, line.row.backbone, cell.metric, *numbers, cell.direction, note])
    return text.getvalue()


def summary(tables: Iterable[Table], file_of: Callable[[Table], Path], link: str = "") -> str:
    """A Markdown table with a line of ``summary_counts`` for each of ``tables``, from the results in its file.
    ``link``: their folder from the root of the repository; without there are no links, but minutes of all runs."""
    papers, rows, header = PaperNumbers.read(), [], SUMMARY[:-1] if link else SUMMARY
    for table in tables:
        file = file_of(table)
        cells: tuple[object, ...] = ("-", "-", f"0/{len(table.rows)}", *("-" * 5))
        if file.exists():
            results = TableResults.read(file)
            minutes = sum(row.minutes or 0 for row in results.rows)
            cells = (results.schedule, *summary_counts(compare(table, results, papers)), f"{minutes:.0f}")
        name = f"[{table.name}]({link}/{table.stem}.md)" if link else table.name
        rows.append((name, table.title, KINDS[table.kind], *cells)[: len(header)])
    return documents.markdown(header, rows, text=4)


def summary_counts(lines: Sequence[Line]) -> tuple[int, str, int, int, int, int]:
    """Seeds, measured rows of all, gains that the paper has too, and of these: same way, within spread, other."""
    directions = Counter(cell.direction for line in lines for cell in line.cells if cell.direction)
    measured = sum(line.seeds > 0 for line in lines)
    seeds = max((line.seeds for line in lines), default=0)
    same, within = directions["same"], directions["within spread"]
    return seeds, f"{measured}/{len(lines)}", directions.total(), same, within, directions.total() - same - within


def _cells(lines: Sequence[Line]) -> list[tuple[Line, Cell]]:
    return [(line, cell) for line in lines for cell in line.cells]


def _ours(cell: Cell, digits: int) -> str:
    """``70.1 ± 0.6 (+2.1 ± 0.3)``: mean and spread over the seeds, and the gain over the base."""
    if cell.measured is None:
        return "-"
    gain = "" if cell.gain is None else f" ({_estimate(cell.gain, f'+.{digits}f', digits)})"
    return _estimate(cell.measured, f".{digits}f", digits) + gain


def _theirs(cell: Cell, digits: int) -> str:
    """``41.3 (+1.8)`` as printed; the gain alone where the paper prints nothing else."""
    if cell.printed_gain is None:
        return cell.printed or ""
    gain = f"{cell.printed_gain:+.{digits}f}"
    return gain if cell.printed is None else f"{cell.printed} ({gain})"


def _estimate(estimate: Estimate, form: str, digits: int) -> str:
    spread = "" if estimate.spread is None else f" ± {estimate.spread:.{digits}f}"
    return f"{estimate.mean:{form}}{spread}"


def _plain(text: str) -> str:
    return text.replace("*", "\\*")


def _notes(results: TableResults, lines: Sequence[Line]) -> list[str]:
    """What was measured how, where the published numbers are from and what is odd, and why rows are missing."""
    notes = [_circumstances(results, lines)]
    if settings := _common_settings(results, lines):
        notes.append(f"Other than in the table's own configuration: {', '.join(settings)}.")
    if bases := dict.fromkeys(line.row.base for line in lines if line.row.base):
        notes.append(f"In brackets: gain over {' or '.join(bases)}, ours paired by seed.")
    if sources := dict.fromkeys(line.source for line in lines if line.source):
        places = (f"Table {number}" if number.isdigit() else number for number, _ in sources)
        datasets = (dataset for _, dataset in sources)
        notes.append(f"Paper: {'; '.join(map(', '.join, zip(places, datasets, strict=True)))}.")
    if any(cell.direction for line in lines for cell in line.cells):
        notes.append("Direction: sign of our gain against the published one; within spread: not larger than its own.")
    remarks: dict[str, dict[str, list[str]]] = {}  # by note and row: the metrics
    for line, cell in (pair for pair in _cells(lines) if pair[1].note):
        metrics = remarks.setdefault(cell.note, {}).setdefault(f"{line.row.name} ({line.row.backbone})", [])
        metrics.append(HEADINGS.get(cell.metric, cell.metric))
    for remark, rows in remarks.items():
        named = "; ".join(f"{row}, {' and '.join(metrics)}" for row, metrics in rows.items())
        notes.append(f"{named if len(rows) <= NAMED_ROWS else f'{len(rows)} rows'}: {remark}.")
    return notes + [f"{line.row.name} ({line.row.backbone}): {line.problem}." for line in lines if line.problem]


def _common_settings(results: TableResults, lines: Sequence[Line]) -> list[str]:
    """Settings that every row was given on the command line; schedule and backbones are named elsewhere."""
    words = [set(row.words) for row in results.rows if row.seeds]
    of_rows = {word for line in lines for word in line.row.overrides}
    common = set[str]().union(*words[:1]).intersection(*words) - of_rows
    return sorted(word for word in common if not word.startswith(("experiment=", "method=", "schedule=", "backbone")))


def _circumstances(results: TableResults, lines: Sequence[Line]) -> str:
    counts = {line.seeds for line in lines if line.seeds}
    if not counts:
        return "Nothing is measured yet."
    seeds = "one seed" if max(counts) == 1 else f"mean ± standard deviation over {max(counts)} seeds"
    seeds += " (fewer in some rows)" if len(counts) > 1 else ""
    images = "" if results.images is None else f", {results.images} images"
    stands = dict.fromkeys((row.backbone, row.stands_for) for row in results.rows if row.stands_for and row.seeds)
    backbones = ", ".join(f"{name} is {choice}" for name, choice in stands)
    return f"Measured: {results.data}{images}; schedule {results.schedule}, {seeds}{backbones and '; '}{backbones}."
