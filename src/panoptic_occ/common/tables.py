"""Tables of results as Markdown, for the terminal and for text files, so that they can be pasted anywhere."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from io import StringIO
from typing import TYPE_CHECKING

from tabulate import SEPARATING_LINE, DataRow, Line, TableFormat, tabulate

from panoptic_occ.common.terminal import printable

if TYPE_CHECKING:
    from rich.console import RenderableType

SEPARATOR = " | "
"""Between the parts of a label: an order, and the group of rows that it belongs to."""
_CELLS = DataRow("|", "|", "|")
_MARKDOWN = TableFormat(None, Line("|", "-", "|", "|"), None, None, _CELLS, _CELLS, 1, None)
"""Numbers are aligned by spaces alone; tabulate's own formats put colons into the rule and make all heads wider."""


def text_table(heads: Sequence[str], rows: Iterable[Sequence[str]], title: str = "", left: int = 1) -> str:
    """A table between blank lines, below its title, as wide as its content; the first ``left`` columns hold text, the
    others numbers, which are aligned to the right."""
    alignment = ["left"] * left + ["right"] * (len(heads) - left)
    lines = [heads, SEPARATING_LINE, *rows]
    table = tabulate(lines, tablefmt=_MARKDOWN, colalign=alignment, disable_numparse=True, preserve_whitespace=True)
    heading = f"{title}\n" if title else ""
    return printable(f"{heading}\n{table}\n\n")


def comparison_table(rows: Mapping[str, Mapping[str, float | str]], title: str = "") -> str:
    """One row per label, one column per number, in the order in which they first appear.

    Floats are fractions and are shown in percent, integers are counts; NaN shows '-', a number a row lacks is blank,
    text is shown as it is.  Of labels like 'order | group' the group has a column of its own, filled where it changes.
    """
    names = list(dict.fromkeys(name for row in rows.values() for name in row))
    left = 1 + any(SEPARATOR in label for label in rows)
    lines, previous = [], ""
    for label, row in rows.items():
        order, _, group = label.partition(SEPARATOR)
        group = group.replace(SEPARATOR, ", ")  # a bar would end the cell
        labels = ["" if group == previous else group, order][-left:]
        cells = (row.get(name, "") for name in names)
        lines.append([*labels, *(percent(cell) if isinstance(cell, float) else str(cell) for cell in cells)])
        previous = group
    return text_table([""] * left + names, lines, title, left)


def percent(value: float) -> str:
    """A fraction in percent, '-' for NaN."""
    return "-" if math.isnan(value) else f"{100 * value:.1f}"


def to_text(renderable: RenderableType) -> str:
    """Plain text of something of rich, as wide as it wants: a narrow terminal or a redirected output cuts nothing."""
    from rich.console import Console
    from rich.measure import Measurement

    console = Console(file=StringIO(), width=10_000, color_system=None, force_terminal=False, _environ={})
    width = Measurement.get(console, console.options, renderable).maximum
    with console.capture() as capture:
        console.print(renderable, width=max(width, 1), crop=False, overflow="ignore")
    lines = capture.get().removesuffix("\n").split("\n")
    return printable("\n".join(line.rstrip() for line in lines) + "\n")
