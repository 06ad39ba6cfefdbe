"""Tables of results for the terminal and for text files, in Markdown, so that they can be pasted anywhere."""

from __future__ import annotations

import math
from collections.abc import Mapping
from io import StringIO
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console, RenderableType
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:  # it would load torch, and the worker processes of the official files do without
    pass


SEPARATOR = " | "


"""Between the parts of a label: a method, and the group of rows that it belongs to."""


def comparison_table(rows: Mapping[str, Mapping[str, float | str]], title: str = "") -> Table:
    """One row per method, one column per number, in the order in which they first appear.

    Floats are fractions and are shown in percent, integers are counts; NaN shows '-', a number a row lacks is blank,
    text is shown as it is.  Of labels like 'method | group' the group has a column of its own, filled where it changes.
    """
    names = list(dict.fromkeys(name for row in rows.values() for name in row))
    grouped = any(SEPARATOR in label for label in rows)
    table = Table(title=title or None, box=box.MARKDOWN)
    for _ in range(1 + grouped):
        table.add_column("", no_wrap=True)
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    previous = ""
    for label, row in rows.items():
        method, _, group = label.partition(SEPARATOR)
        group = group.replace(SEPARATOR, ", ")  # a bar would end the cell
        head = [Text("" if group == previous else group)] if grouped else []
        previous = group
        table.add_row(*head, Text(method), *(_cell(row[name]) if name in row else "" for name in names))
    return table


def to_text(renderable: RenderableType) -> str:
    """Plain text, as wide as the renderable wants: a narrow terminal or a redirected output cuts nothing."""
    console = Console(file=StringIO(), width=10_000, color_system=None, force_terminal=False, _environ={})
    width = Measurement.get(console, console.options, renderable).maximum
    with console.capture() as capture:
        console.print(renderable, width=max(width, 1), crop=False, overflow="ignore")
    return "\n".join(line.rstrip() for line in capture.get().splitlines()) + "\n"


def _cell(value: float | str) -> str:
    return _percent(value) if isinstance(value, float) else str(value)


def _percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{100 * value:.1f}"
