"""A comparison as Markdown, LaTeX, CSV and for the terminal."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich import box
from rich.table import Table as RichTable
from rich.text import Text

from panoptic_occ.common.files import write_text
from scripts.tables.comparison import Cell, Estimate, Line
from scripts.tables.measured import Measured
from scripts.tables.tables import Table

PAPERS = {"oanet": "OANet", "ocfusion": "OCFusion", "banet": "BANet", "rap": "RAP", "refine": "REFINE"}
HEADINGS = {
    "PQ_th": "PQ things",
    "PQ_st": "PQ stuff",
    "SQ_th": "SQ things",
    "RQ_th": "RQ things",
    "relation_accuracy": "order right",
    "relation_accuracy_rap": "order right, as RAP counts",
    "relation_ms": "relation, ms",
    "network_ms": "network, ms",
    "fusion_ms": "fusion, ms",
    "AP_box": "AP boxes",
    "AP_mask": "AP masks",
    "FPS": "images/s",
}
LATEX = str.maketrans({
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "<": r"$<$", ">": r"$>$",
})  # fmt: skip

NAMED_ROWS = 3  # a note about more rows counts them


@dataclass(frozen=True)
class Sheet:
    """A table of text with a title and notes below it."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...]


def sheet(table: Table, measured: Measured, lines: Sequence[Line]) -> Sheet:
    """The text of a comparison; columns that no row fills are left out."""
    several = len({line.row.backbone for line in lines}) > 1
    columns: list[tuple[str, list[str]]] = [("", [line.row.name for line in lines])]
    if several:
        columns.append(("backbone", [line.row.backbone for line in lines]))
    for k, metric in enumerate(table.metrics):
        cells = [line.cells[k] for line in lines]
        digits = min(2, max([1, *(len(cell.printed.partition(".")[2]) for cell in cells if cell.printed)]))
        columns.append((HEADINGS.get(metric, metric), [ours(cell, digits) or "-" for cell in cells]))
        for name, texts in (
            ("paper", [theirs(cell, digits) for cell in cells]),
            ("direction", [cell.direction for cell in cells]),
        ):
            if any(texts):  # else the paper says nothing about this metric
                columns.append((name, texts))
    rows = tuple(zip(*(texts for _, texts in columns), strict=True))
    return Sheet(title(table), tuple(name for name, _ in columns), rows, tuple(notes(measured, lines)))


def ours(cell: Cell, digits: int) -> str:
    """``70.1 ± 0.6 (+2.1 ± 0.3)``: mean and spread over the seeds, and the gain over the base."""
    if cell.measured is None:
        return ""
    gain = "" if cell.gain is None else f" ({_estimate(cell.gain, f'+.{digits}f', digits)})"
    return _estimate(cell.measured, f".{digits}f", digits) + gain


def theirs(cell: Cell, digits: int) -> str:
    """``41.3 (+1.8)`` as printed; the gain alone where the paper prints nothing else."""
    if cell.printed_gain is None:
        return cell.printed or ""
    gain = f"{cell.printed_gain:+.{digits}f}"
    return gain if cell.printed is None else f"{cell.printed} ({gain})"


def title(table: Table) -> str:
    """Paper and number, and what the table is about."""
    return f"{PAPERS[table.paper]}, Table {table.table}: {table.title}" if table.paper in PAPERS else table.title


def notes(measured: Measured, lines: Sequence[Line]) -> list[str]:
    """What a reader must know: data, schedule, seeds, backbones, where the published numbers are from, what is odd
    about them, and which rows are missing why."""
    found = [_circumstances(measured, lines)]
    if chosen := _chosen(measured, lines):
        found.append(f"Other than in the table's own configuration: {', '.join(chosen)}.")
    bases = dict.fromkeys(line.row.base for line in lines if line.row.base)
    if bases:
        found.append(f"In brackets: gain over {' or '.join(bases)}, ours paired by seed.")
    sources = dict.fromkeys(line.source for line in lines if line.source)
    if sources:
        found.append(f"Paper: {'; '.join(f'{_printed_in(number)}, {dataset}' for number, dataset in sources)}.")
    if any(cell.direction for line in lines for cell in line.cells):
        found.append("Direction: sign of our gain against the published one; within spread: not larger than its own.")
    said: dict[str, dict[str, list[str]]] = {}  # by note and row: the metrics
    for line in lines:
        for cell in line.cells:
            if cell.note:
                metrics = said.setdefault(cell.note, {}).setdefault(f"{line.row.name} ({line.row.backbone})", [])
                metrics.append(HEADINGS.get(cell.metric, cell.metric))
    found += [f"{_where(rows)}: {note}." for note, rows in said.items()]
    found += [f"{line.row.name} ({line.row.backbone}): {line.problem}." for line in lines if line.problem]
    return found


def _chosen(measured: Measured, lines: Sequence[Line]) -> list[str]:
    """Settings that every row was given on the command line; schedule and backbones are named elsewhere."""
    made = [set(row.words) for row in measured.rows if row.seeds]
    own = {word for line in lines for word in line.row.overrides}
    given = set[str]().union(*made[:1]).intersection(*made) - own
    return sorted(word for word in given if not word.startswith(("experiment=", "method=", "schedule=", "backbone")))


def _where(rows: Mapping[str, Sequence[str]]) -> str:
    """The rows and metrics that a note is about, as a number when there are many."""
    if len(rows) > NAMED_ROWS:
        return f"{len(rows)} rows"
    return "; ".join(f"{row}, {' and '.join(metrics)}" for row, metrics in rows.items())


def _circumstances(measured: Measured, lines: Sequence[Line]) -> str:
    counts = {line.seeds for line in lines if line.seeds}
    if not counts:
        return "Nothing is measured yet."
    n = max(counts)
    seeds = "one seed" if n == 1 else f"mean ± standard deviation over {n} seeds"
    if len(counts) > 1:
        seeds += " (fewer in some rows)"
    images = "" if measured.images is None else f", {measured.images} images"
    stands = dict.fromkeys((row.backbone, row.stands_for) for row in measured.rows if row.stands_for and row.seeds)
    backbones = ", ".join(f"{name} is {choice}" for name, choice in stands)
    found = f"Measured: {measured.data}{images}; schedule {measured.schedule}, {seeds}"
    return found + (f"; {backbones}." if backbones else ".")


def _printed_in(number: str) -> str:
    return f"Table {number}" if number.isdigit() else number


def markdown(found: Sheet) -> str:
    """A Markdown table under its title."""
    head = [f"**{found.title}**", "", _piped(found.header), "|" + "---|" * len(found.header)]
    notes = (f"- {_plain(note)}" for note in found.notes)
    return "\n".join([*head, *map(_piped, found.rows), "", *notes]) + "\n"


def latex(found: Sheet) -> str:
    r"""A LaTeX table (needs ``\usepackage{booktabs,graphicx}``), not wider than a line."""
    columns = "l" + "r" * (len(found.header) - 1)
    body = [" & ".join(map(escape, row)) + r" \\" for row in found.rows]
    lines = [
        r"% needs \usepackage{booktabs,graphicx}",
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{escape(' '.join([found.title + '.', *found.notes]))}}}",
        r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        " & ".join(map(escape, found.header)) + r" \\",
        r"\midrule",
        *body,
        r"\bottomrule",
        r"\end{tabular}}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def escape(text: str) -> str:
    """Text in which LaTeX finds no command."""
    return text.translate(LATEX)


def comma_separated(lines: Sequence[Line]) -> str:
    """One line a row and metric, with all digits."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = "row backbone metric mean spread seeds gain gain_spread published published_gain direction note"
    writer.writerow(names.split())
    for line in lines:
        for cell in line.cells:
            numbers = [*_numbers(cell.measured), cell.measured.n if cell.measured else 0, *_numbers(cell.gain)]
            printed = [cell.printed or "", "" if cell.printed_gain is None else cell.printed_gain]
            note = cell.note or line.problem or ""
            writer.writerow([line.row.name, line.row.backbone, cell.metric, *numbers, *printed, cell.direction, note])
    return text.getvalue()


def rich_table(found: Sheet) -> RichTable:
    """The table for the terminal, without the notes."""
    table = RichTable(title=found.title, box=box.MARKDOWN)
    for k, name in enumerate(found.header):
        table.add_column(name, justify="left" if k == 0 else "right", no_wrap=True)
    for row in found.rows:
        table.add_row(*map(Text, row))
    return table


def write_all(found: Sheet, lines: Sequence[Line], stem: Path) -> None:
    """Writes ``stem``.md, .tex and .csv."""
    for suffix, text in ((".md", markdown(found)), (".tex", latex(found)), (".csv", comma_separated(lines))):
        write_text(stem.with_name(stem.name + suffix), text)


def _piped(cells: Sequence[str]) -> str:
    return f"| {' | '.join(map(_plain, cells))} |"


def _plain(text: str) -> str:
    return text.replace("|", "\\|").replace("*", "\\*")


def _estimate(found: Estimate, form: str, digits: int) -> str:
    spread = "" if found.spread is None else f" ± {found.spread:.{digits}f}"
    return f"{found.mean:{form}}{spread}"


def _numbers(found: Estimate | None) -> tuple[float | str, float | str]:
    return ("", "") if found is None else (found.mean, "" if found.spread is None else found.spread)
