"""Tables in documents: between ``<!-- name: made by ... -->`` and ``<!-- end name -->`` in README.md or docs/*.md."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.console import Console
from tabulate import tabulate

from panoptic_occ.common.errors import DataError
from panoptic_occ.common.files import write_json, write_text

ROOT = Path(__file__).resolve().parents[1]


def markdown(header: Sequence[str], rows: Iterable[Sequence[object]], text: int = 1) -> str:
    """A Markdown table whose first ``text`` columns are text; the others are numbers, aligned at the right."""
    cells = [[str(cell).replace("|", "\\|") for cell in row] for row in rows]
    sides = ["left"] * text + ["right"] * (len(header) - text)
    return tabulate(cells, header, tablefmt="pipe", colalign=sides if cells else None, disable_numparse=True)


def fill(name: str, table: str, command: str, root: Path = ROOT) -> list[Path]:
    """Puts ``table``, made by ``command`` with links relative to ``root``, between the markers of ``name`` in every
    document below ``root`` that has them; returns these, DataError where there is none."""
    pattern = re.compile(rf"<!-- {re.escape(name)}: [^>]*-->\n.*?<!-- end {re.escape(name)} -->", re.DOTALL)
    documents = [file for file in (root / "README.md", *sorted((root / "docs").glob("*.md"))) if file.exists()]
    homes = [file for file in documents if pattern.search(file.read_text(encoding="utf-8"))]
    if not homes:
        raise DataError(
            f"no markers for '{name}' in README.md and docs/*.md; write <!-- {name}: made by ... --> and, on a line "
            f"below it, <!-- end {name} --> in one of them"
        )
    for home in homes:
        linked = table if home.parent == root else re.sub(r"\]\((?!https?:)", "](../", table)
        block = f"<!-- {name}: made by {command} -->\n{linked}\n<!-- end {name} -->"
        write_text(home, pattern.sub(lambda _, block=block: block, home.read_text(encoding="utf-8")))  # type: ignore[misc]
    return homes


def publish(file: Path, content: object, text: str) -> None:
    """Writes ``content`` into a JSON file, and ``text`` as Markdown beside it."""
    write_json(file, content, indent=1)
    write_text(file.with_suffix(".md"), text)


def say(text: str) -> None:
    """Shows text in the terminal as it is."""
    Console().print(text, markup=False, highlight=False, soft_wrap=True)
