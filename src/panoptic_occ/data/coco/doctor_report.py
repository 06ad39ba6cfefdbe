"""What the data doctor lists, for people (by kind, a few examples of each) and as a file (all of it, JSON or CSV)."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

from panoptic_occ.common.errors import ConfigError
from panoptic_occ.common.files import write_json, write_text
from panoptic_occ.data.coco.reader import Problem

EXAMPLES = 3
COLUMNS = ("severity", "kind", "file", "image_id", "id", "problem", "fix")
_STARTS = {".json": '{\n "errors": ', ".csv": ",".join(COLUMNS)}
"""What a report begins with, by its ending: nothing else is ever replaced."""


def lines_of(problems: Sequence[Problem]) -> Iterator[str]:
    """A heading for every kind, errors first: how many there are, and what to do; below it some of them."""
    kinds: dict[tuple[bool, str], list[Problem]] = {}
    for problem in problems:
        kinds.setdefault((not problem.fatal, problem.kind), []).append(problem)
    for _, cases in sorted(kinds.items(), key=lambda item: item[0][0]):
        first, count = cases[0], f"{len(cases)} case{'s' if len(cases) > 1 else ''}"
        yield f"{_severity(first)}: {first.kind}, {count}" + (f"; {first.fix}" if first.fix else "")
        for problem in cases[:EXAMPLES]:
            yield f"    {problem.place}: {problem.problem}"
        if len(cases) > EXAMPLES:
            yield f"    and {len(cases) - EXAMPLES} more"


def check_report(path: Path) -> None:
    """ConfigError for a file that ``write_report`` cannot write, or that is there and no earlier report."""
    if path.suffix not in _STARTS:
        raise ConfigError(f"report={path}: needs the ending {' or '.join(_STARTS)}")
    if path.is_dir():
        raise ConfigError(f"report={path}: is a folder; name a file in it")
    if path.exists() and not path.is_file():  # opening a pipe could wait for ever
        raise ConfigError(f"report={path}: is a pipe or a device; choose another name")
    start = _STARTS[path.suffix]
    if path.exists():
        with open(path, encoding="utf-8", errors="replace") as file:
            if file.read(len(start)) != start:
                raise ConfigError(f"report={path}: is there already, and no earlier report; choose another name")


def write_report(path: Path, problems: Sequence[Problem]) -> None:
    """Writes all problems: a CSV with a row for each, or a JSON with their numbers."""
    rows = [
        dict(zip(COLUMNS, (_severity(p), p.kind, p.file, p.image_id, p.id, p.problem, p.fix), strict=True))
        for p in problems
    ]
    if path.suffix == ".csv":
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_text(path, text.getvalue())
        return
    errors = sum(problem.fatal for problem in problems)
    write_json(path, {"errors": errors, "warnings": len(problems) - errors, "problems": rows}, indent=1)


def _severity(problem: Problem) -> str:
    return "error" if problem.fatal else "warning"
