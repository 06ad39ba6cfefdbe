"""``python -m scripts.benchmark``: how fast the suite is beside the straightforward public ways."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from panoptic_occ.common.errors import PanopticOccError
from panoptic_occ.common.files import read_json, write_text
from panoptic_occ.common.tables import to_text
from scripts.benchmark.jobs import all_jobs, chosen
from scripts.benchmark.measure import Job, Outcome, Patience, race
from scripts.benchmark.rendering import NOTES, markdown, missed, report, rich_table, where, write_all
from scripts.markers import fill

DOC = """How fast the suite is beside the straightforward public ways, on generated inputs, in one process on one core.
Every result is compared before it is timed.

  python -m scripts.benchmark                 all jobs, less than five minutes; writes results/benchmark.json and .md
  python -m scripts.benchmark --job pq paste  some jobs; writes only with --out
  python -m scripts.benchmark --quick         few repetitions; writes only with --out
  python -m scripts.benchmark --readme        puts the rows with a target of results/benchmark.json into the README
  python -m scripts.benchmark --profile       where training and evaluation spend their time
  python -m scripts.benchmark --options       what bf16, channels_last and compilation are worth in training
  python -m scripts.benchmark --throughput    images a second of evaluate saved=true and prepare
  python -m scripts.benchmark --growth        time and memory against the number of instances
  python -m scripts.benchmark --gpu           the same work on a GPU"""
PATIENCE = Patience()
QUICK = Patience(seconds=0.3, turns=1, most=5)
EXTRAS = ("profile", "options", "growth", "throughput", "gpu")


def main(
    arguments: Sequence[str] | None = None,
    results: Path = Path("results/benchmark.json"),
    readme: Path = Path("README.md"),
) -> int:
    """The command; the exit status is 1 when a result was wrong."""
    options = _parser().parse_args(arguments)
    console = Console()
    try:
        if options.list:
            for job in all_jobs():
                console.print(f"{job.name:12} {job.about}, {job.size}", markup=False, highlight=False, soft_wrap=True)
            return 0
        if options.readme:
            block = markdown(read_json(results), required=True)
            write_text(readme, fill(readme.read_text(encoding="utf-8"), "bench", block))
            return 0
        extras = [name for name in EXTRAS if getattr(options, name)]
        for name in extras:
            import_module(f"scripts.benchmark.{name}").run((options.out or results).parent, quick=options.quick)
        if extras:
            return 0
        partial = bool(options.job) or options.quick
        return _measure(chosen(options.job), options.quick, options.out or (None if partial else results), console)
    except PanopticOccError as error:
        sys.exit(f"error: {error}")


def _measure(jobs: Sequence[Job], quick: bool, out: Path | None, console: Console) -> int:
    started = time.perf_counter()
    outcomes = list(_timed(jobs, QUICK if quick else PATIENCE))
    found = report(outcomes, time.perf_counter() - started)
    if out is not None:
        write_all(found, out)
    written = [f"Written to {out} and {out.with_suffix('.md')}"] if out else []
    text = "\n".join([to_text(rich_table(found)), where(found), NOTES, *written])
    console.print(text, markup=False, highlight=False, soft_wrap=True)
    return int(missed(found) > 0)


def _timed(jobs: Sequence[Job], patience: Patience) -> list[Outcome]:
    """Every job's outcome; the bar is drawn between jobs only, so that nothing runs beside them."""
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    console = Console(stderr=True)
    outcomes = []
    with Progress(
        *columns, console=console, transient=True, auto_refresh=False, disable=not console.is_terminal
    ) as progress:
        bar = progress.add_task("", total=len(jobs))
        for job in jobs:
            progress.update(bar, description=f"{job.about}, {job.size}", refresh=True)
            outcomes.append(race(job, patience))
            progress.update(bar, advance=1, refresh=True)
    return outcomes


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=DOC, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", action="store_true", help="show the jobs, run nothing")
    parser.add_argument("--job", nargs="+", default=[], metavar="NAME", help="only these jobs")
    parser.add_argument("--quick", action="store_true", help="few repetitions: to see that everything works")
    parser.add_argument("--out", type=Path, help="the JSON file to write; the Markdown table is written beside it")
    parser.add_argument("--readme", action="store_true", help="fill the README's table from the results, run nothing")
    for name in EXTRAS:
        parser.add_argument(f"--{name}", action="store_true", help=f"run scripts.benchmark.{name} in place of the jobs")
    return parser
