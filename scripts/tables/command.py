"""``python -m scripts.tables``: makes tables of the papers, measured beside published."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from panoptic_occ.common.errors import ConfigError, PanopticOccError
from panoptic_occ.common.files import write_text
from scripts.documents import ROOT, fill, say
from scripts.suite import compose, result_words
from scripts.tables.comparison import PaperNumbers, compare
from scripts.tables.plan import Setting, TableResults, collect, plan
from scripts.tables.rendering import comma_separated, latex, markdown, sheet, summary, title
from scripts.tables.running import Launcher, Outcome, run_missing
from scripts.tables.tables import Table, load, names

DOC = """Makes tables of the papers: runs what is missing, skips what is finished, and writes measured beside published
numbers to results/tables (a Markdown table, and the measurements as JSON).

  python -m scripts.tables --list                            all tables, their kind and what they have taken
  python -m scripts.tables ocfusion/table6                   on the embedded scenes
  python -m scripts.tables ocfusion/table6 data=coco data.root=/data/coco trainer=gpu
  python -m scripts.tables rap/table3 seeds=0,1 hydra/launcher=joblib --jobs 2
  python -m scripts.tables ocfusion/table6 --format latex    what is measured by now (or csv, markdown), running nothing
  python -m scripts.tables --documents                       all of that anew, and its summary into the documents

The same command continues after an interruption.  Words with '=' are Hydra overrides for every run; data=NAME takes the
preset of that name, seeds=A,B the seeds, and hydra... words choose and set up the launcher."""


def main(arguments: Sequence[str] | None = None, root: Path = ROOT) -> int:
    """The command; the exit status is 1 when a row failed.  ``root``: of the documents and the results."""
    parser = argparse.ArgumentParser(description=DOC, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", metavar="TABLE | KEY=VALUE")
    parser.add_argument("--list", action="store_true", help="show all or the named tables, run nothing")
    parser.add_argument("--format", choices=("markdown", "latex", "csv"), help="show what is measured, run nothing")
    parser.add_argument("--documents", action="store_true", help="write anew what is measured, run nothing")
    parser.add_argument("--jobs", type=int, default=1, help="rows at a time, for launchers that only wait")
    options = parser.parse_intermixed_args(arguments)
    tables = [word for word in options.words if "=" not in word]
    values = dict(word.split("=", 1) for word in options.words if "=" in word)
    words = tuple(word for word in options.words if "=" in word and not word.startswith(("data=", "seeds=")))
    try:
        seeds = _numbers(values["seeds"]) if "seeds" in values else None
        request = Request(root / "results" / "tables", values.get("data", "scenes"), words, seeds, options.jobs)
        if options.list:
            say(summary(map(load, tables or names()), request.file))
        elif options.documents:
            every = [load(name) for name in names()]
            for table in every:
                if request.file(table).exists():
                    write_text(request.file(table).with_suffix(".md"), request.text(table, "markdown"))
            overview = summary(every, request.file, "results/tables")
            files = fill("tables", overview, "python -m scripts.tables --documents", root)
            say(f"Written to {', '.join(map(str, files))}")
        elif not tables:
            parser.error("name a table, as ocfusion/table6 (--list shows all), or give --list")
        elif options.format:
            say("\n".join(request.text(load(name), options.format) for name in tables))
        else:
            return max(request.make(load(name)) for name in tables)
    except PanopticOccError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted; the same command continues")
    return 0


@dataclass(frozen=True)
class Request:
    """What the user asked for, apart from the table; ``folder``: of the results."""

    folder: Path
    data: str
    words: tuple[str, ...]
    seeds: tuple[int, ...] | None
    jobs: int

    def setting(self, table: Table) -> Setting:
        """What ``table`` is run with."""
        words = [word for word in self.words if not word.startswith("hydra")]
        return Setting.of(table, self.data, words, self.seeds)

    def file(self, table: Table) -> Path:
        """Where the measurements of a table are."""
        return self.folder / f"{table.stem}{'' if self.data == 'scenes' else f'_{self.data}'}.json"

    def make(self, table: Table) -> int:
        """Runs what is missing of a table, with its measurements kept after every row; 1 when a row failed."""
        setting, file = self.setting(table), self.file(table)
        rows = plan(table, setting)
        problems, minutes = dict[str, str](), dict[str, float]()
        before = TableResults.read(file) if file.exists() else None
        for planned in rows:
            known = before and before.row(planned.row)
            same = known and known.words == result_words(planned.words)
            minutes[planned.row.key] = known.minutes or 0.0 if known and same else 0.0

        def tell(outcome: Outcome) -> None:
            row = outcome.planned.row
            minutes[row.key] = minutes.get(row.key, 0.0) + outcome.minutes
            if outcome.problem is not None:
                problems[row.key] = outcome.problem
            done = f"done in {outcome.minutes:.1f} minutes"
            say(f"{row.name} ({row.backbone}): {f'{outcome.problem}: {outcome.reason}' if outcome.problem else done}")
            collect(table, setting, rows, problems, minutes).write(file)

        count, missing = sum(len(p.runs) for p in rows), sum(len(p.missing) for p in rows)
        say(f"{title(table)}: {count - missing} of {count} runs are finished")
        logs = Path(compose([f"experiment={table.name}", *setting.words]).runs_dir) / "tables" / table.name
        launcher = tuple(word for word in self.words if word.startswith("hydra"))
        run_missing(rows, Launcher(logs, launcher, self.jobs), tell)
        collect(table, setting, rows, problems, minutes).write(file)
        text = self.text(table, "markdown")
        write_text(file.with_suffix(".md"), text)
        say(f"{text}\nWritten to {file} and {file.stem}.md")
        return int(bool(problems))

    def text(self, table: Table, form: str) -> str:
        """A table as ``markdown``, ``latex`` or ``csv``, from its measurements."""
        results = TableResults.read(self.file(table))
        lines = compare(table, results, PaperNumbers.read())
        if form == "csv":
            return comma_separated(lines)
        return {"markdown": markdown, "latex": latex}[form](sheet(table, results, lines))


def _numbers(text: str) -> tuple[int, ...]:
    """``0,1`` or ``[0,1]``; ConfigError for anything else."""
    numbers = [number.strip() for number in text.removeprefix("[").removesuffix("]").split(",")]
    if not all(number.isdecimal() for number in numbers):
        raise ConfigError(f"seeds={text}: needs whole numbers with commas between them, such as seeds=0,1,2")
    return tuple(map(int, numbers))
