"""``python -m scripts.tables``: makes tables of the papers, measured beside published."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table as RichTable

from panoptic_occ.common.errors import ConfigError, PanopticOccError
from panoptic_occ.common.files import write_text
from panoptic_occ.common.parallel import ordered_map
from panoptic_occ.common.tables import to_text
from panoptic_occ.config.compose import compose
from scripts.markers import fill
from scripts.tables.comparison import compare
from scripts.tables.cost import Cost, cost
from scripts.tables.measured import Measured, gather, own_words
from scripts.tables.plan import PlannedRow, Setting, plan
from scripts.tables.published import Published
from scripts.tables.rendering import rich_table, sheet, title, write_all
from scripts.tables.running import Launcher, Outcome, run_missing
from scripts.tables.summary import summary
from scripts.tables.tables import KINDS, Table, load, names

DOC = """Makes tables of the papers: runs what is missing, skips what is finished, and writes measured beside published
numbers to results/tables (Markdown, CSV, LaTeX, and the measurements as JSON).

  python -m scripts.tables --list                            all tables, and what they still cost
  python -m scripts.tables ocfusion/table6                   on the embedded scenes
  python -m scripts.tables ocfusion/table6 data=coco data.root=/data/coco trainer=gpu
  python -m scripts.tables rap/table3 seeds=0,1 hydra/launcher=joblib --jobs 2
  python -m scripts.tables --readme README.md                what is measured by now, into the README

The same command continues after an interruption.  Words with '=' are Hydra overrides for every run; data=NAME takes the
preset of that name, seeds=A,B the seeds, and hydra... words choose and set up the launcher."""


COLUMNS = ("table", "kind", "about", "rows", "not here", "seeds", "bases", "heads", "evaluations", "minutes")
LISTING = (
    "not here: rows that this data or version cannot make.  bases, heads, evaluations: what the first seed still "
    "needs.  minutes: of all runs so far, as far as they are in the results."
)


def main(arguments: Sequence[str] | None = None, results: Path = Path("results/tables")) -> int:
    """The command; the exit status is 1 when a row failed.  ``results``: the folder of the tables."""
    parser = argparse.ArgumentParser(description=DOC, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", metavar="TABLE | KEY=VALUE")
    parser.add_argument("--list", action="store_true", help="show all or the named tables, run nothing")
    parser.add_argument("--from-results", action="store_true", help="render again what was measured, run nothing")
    parser.add_argument("--readme", type=Path, help="write what all tables have measured between its markers 'tables'")
    parser.add_argument("--jobs", type=int, default=1, help="rows at a time, for launchers that only wait")
    parser.add_argument("--results", type=Path, default=results, help="the folder of the tables")
    options = parser.parse_intermixed_args(arguments)
    console = Console()
    words = [word for word in options.words if "=" in word]
    tables = [word for word in options.words if "=" not in word]
    data, seeds = _take(words, "data") or "scenes", _take(words, "seeds")
    try:
        request = Request(options.results, data, tuple(words), _numbers(seeds), options.jobs, console)
        if options.list:
            request.show(request.listing([load(name) for name in tables or names()]), LISTING)
            return 0
        if options.readme:
            made = summary(map(load, names()), options.results, "results/tables")
            write_text(options.readme, fill(options.readme.read_text(), "tables", made))
            return 0
        if not tables:
            parser.error("name a table, as ocfusion/table6 (--list shows all), or give --list")
        make = request.render if options.from_results else request.make
        return max(make(load(name)) for name in tables)
    except PanopticOccError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted; the same command continues")


class Request:
    """What the user asked for, apart from the table."""

    def __init__(
        self,
        results: Path,
        data: str,
        words: tuple[str, ...],
        seeds: tuple[int, ...] | None,
        jobs: int,
        console: Console,
    ) -> None:
        self.results = results
        self.data = data
        self.words = tuple(word for word in words if not word.startswith("hydra"))
        self.launcher = tuple(word for word in words if word.startswith("hydra"))
        self.seeds = seeds
        self.jobs = jobs
        self.console = console

    def make(self, table: Table) -> int:
        """Runs what is missing of a table and renders it after every row; 1 when a row failed."""
        setting = Setting.of(table, self.data, self.words, self.seeds)
        runs_dir = Path(compose([f"experiment={table.name}", *setting.words]).runs_dir)
        rows = plan(table, setting)
        file = self.file(table)
        before = Measured.read(file) if file.exists() else None
        minutes = {row.row.key: _minutes(before, row) for row in rows}
        problems: dict[str, str] = {}

        def tell(outcome: Outcome) -> None:
            key = outcome.planned.row.key
            minutes[key] = minutes.get(key, 0.0) + outcome.minutes
            name = f"{outcome.planned.row.name} ({outcome.planned.row.backbone})"
            if outcome.problem is None:
                self.tell(f"{name}: done in {outcome.minutes:.1f} minutes")
            else:
                problems[key] = outcome.problem
                self.tell(f"{name}: {outcome.problem}: {outcome.reason}", style="red")
            gather(table, setting, rows, problems, minutes).write(file)

        done = sum(run.done is not None for row in rows for run in row.runs)
        count = sum(len(row.runs) for row in rows)
        self.tell(f"{title(table)}: {done} of {count} runs are finished")
        run_missing(rows, Launcher(runs_dir / "tables" / table.name, self.launcher, self.jobs), tell)
        gather(table, setting, rows, problems, minutes).write(file)
        self.render(table)
        return int(bool(problems))

    def render(self, table: Table) -> int:
        """Writes and prints a table from its measurements."""
        measured = Measured.read(self.file(table))
        lines = compare(table, measured, Published.read())
        found = sheet(table, measured, lines)
        stem = self.file(table).with_suffix("")
        write_all(found, lines, stem)
        self.show(rich_table(found), *found.notes, f"Written to {stem}.md, .csv, .tex and .json")
        return 0

    def listing(self, tables: Sequence[Table]) -> RichTable:
        """Tables with their kind and cost."""
        shown = RichTable(title=f"Tables on {self.data}", box=box.MARKDOWN)
        for name in COLUMNS:
            shown.add_column(name, justify="left" if name in ("table", "kind", "about") else "right", no_wrap=True)
        settings = [Setting.of(table, self.data, self.words, self.seeds) for table in tables]
        pairs = zip(tables, settings, strict=True)
        costs = ordered_map(_cost_of_one_seed, pairs, len(tables), None, "tables", chunk=2)
        for table, setting, left in zip(tables, settings, costs, strict=True):
            file = self.file(table)
            spent = [row.minutes for row in Measured.read(file).rows if row.minutes] if file.exists() else []
            counts = (len(table.rows), left.pending, len(setting.seeds), left.bases, left.heads, left.evaluations)
            minutes = f"{sum(spent):.0f}" if spent else "-"
            shown.add_row(table.name, KINDS[table.kind], table.title, *map(str, counts), minutes)
        return shown

    def show(self, table: RichTable, *notes: str) -> None:
        """Prints a table as wide as it is, and notes."""
        self.tell("\n".join([to_text(table), *notes]))

    def tell(self, text: str, style: str | None = None) -> None:
        """Prints text as it is."""
        self.console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)

    def file(self, table: Table) -> Path:
        """Where the measurements of a table are."""
        name = table.name.replace("/", "_") + ("" if self.data == "scenes" else f"_{self.data}")
        return self.results / f"{name}.json"


def _cost_of_one_seed(of: tuple[Table, Setting]) -> Cost:
    table, setting = of
    return cost(plan(table, replace(setting, seeds=setting.seeds[:1])))


def _take(words: list[str], key: str) -> str | None:
    found = [word for word in words if word.startswith(f"{key}=")]
    for word in found:
        words.remove(word)
    return found[-1].partition("=")[2] if found else None


def _numbers(text: str | None) -> tuple[int, ...] | None:
    """``0,1`` or ``[0,1]``; ConfigError for anything else."""
    if text is None:
        return None
    numbers = [number.strip() for number in text.removeprefix("[").removesuffix("]").split(",")]
    if not all(number.isdecimal() for number in numbers):
        raise ConfigError(f"seeds={text}: needs whole numbers with commas between them, such as seeds=0,1,2")
    return tuple(map(int, numbers))


def _minutes(before: Measured | None, planned: PlannedRow) -> float:
    row = before.row(planned.row.name, planned.row.backbone) if before else None
    return (row.minutes or 0.0) if row and row.words == own_words(planned) else 0.0
