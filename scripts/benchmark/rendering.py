"""The benchmark's results as JSON, Markdown and a table for the terminal; the last two are made from the first."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from panoptic_occ.common.files import write_json, write_text
from panoptic_occ.runs.environment import environment
from scripts.benchmark.measure import Outcome

COLUMNS = ("job", "size", "ours, ms", "against", "ms", "ratio", "target", "reached", "MB, ours", "MB")
BRIEF = COLUMNS[:8]
TEXT = {"job", "size", "against"}
NOTES = (
    "Medians of repetitions in turns, in one process on one core, after the results were found equal. Times are "
    "processor time; those of jobs with several processes are by the clock. Ratio: how many times faster ours is. MB: "
    "memory that a call takes beyond its inputs, by the kernel's high-water mark."
)
Report = Mapping[str, Any]


def report(outcomes: Sequence[Outcome], seconds: float) -> dict[str, Any]:
    """Everything that was measured, and on what."""
    machine = {"processor": processor(), "cores": os.cpu_count(), **environment()}
    return {"environment": machine, "seconds": round(seconds, 1), "jobs": [asdict(outcome) for outcome in outcomes]}


def processor() -> str:
    """The processor's name as the kernel tells it."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def rows(found: Report, required: bool = False) -> list[tuple[str, ...]]:
    """The cells under COLUMNS, a row for every stand-in; ``required``: only those with a target."""
    cells: list[tuple[str, ...]] = []
    for job in found["jobs"]:
        if job["problem"]:
            cells.append((job["about"], job["size"], "-", f"WRONG: {job['problem']}", "-", "-", "-", "no", "-", "-"))
        for line in job["lines"]:
            if required and line["target"] is None:
                continue
            ours, theirs = job["ours"], line["theirs"]
            ratio = None if theirs is None else theirs["median"] / ours["median"]
            cells.append((
                job["about"],
                job["size"],
                _number(ours["median"]),
                line["stand_in"],
                "not installed" if theirs is None else _number(theirs["median"]),
                "-" if ratio is None else f"{_number(ratio)}x",
                "-" if line["target"] is None else f"{line['target']:g}x",
                _reached(ratio, line["target"]),
                _memory(ours),
                _memory(theirs),
            ))  # fmt: skip
    return cells


def _reached(ratio: float | None, target: float | None) -> str:
    if ratio is None or target is None:
        return "-"
    return "yes" if ratio >= target else "no"


def _number(value: float) -> str:
    """Three digits, no exponent."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _memory(timing: Mapping[str, Any] | None) -> str:
    return "-" if timing is None or timing["memory"] is None else f"{timing['memory']:.1f}"


def missed(found: Report) -> int:
    """Jobs whose result was wrong."""
    return sum(job["problem"] is not None for job in found["jobs"])


def rich_table(found: Report) -> Table:
    """The table for the terminal."""
    table = Table(box=box.MARKDOWN)
    for name in COLUMNS:
        table.add_column(name, justify="left" if name in TEXT else "right", no_wrap=True)
    for row in rows(found):
        table.add_row(*map(Text, row))
    return table


def markdown(found: Report, required: bool = False) -> str:
    """The whole table, or (``required``) the rows with a target without memory, and what was measured how and where."""
    header = BRIEF if required else COLUMNS
    rule = "|" + "|".join("---" if name in TEXT else "---:" for name in header) + "|"
    body = [_piped(row[: len(header)]) for row in rows(found, required)]
    return "\n".join([_piped(header), rule, *body, "", where(found), *([] if required else ["", NOTES])])


def where(found: Report) -> str:
    """One line about the machine."""
    machine = found["environment"]
    packages = machine["packages"]
    return (
        f"{machine['processor']}, one of {machine['cores']} cores; Python {machine['python']}, torch "
        f"{packages['torch']}, torchvision {packages['torchvision']}, torchmetrics {packages['torchmetrics']}; the "
        f"whole benchmark took {found['seconds'] / 60:.1f} minutes."
    )


def _piped(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def write_all(found: Report, file: Path) -> None:
    """Writes ``file`` (JSON) and the Markdown table beside it."""
    write_json(file, found, indent=1)
    write_text(file.with_suffix(".md"), f"# Benchmark\n\n{markdown(found)}\n")
