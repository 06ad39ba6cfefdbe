"""``python -m scripts.benchmark``: how fast the suite is beside the straightforward public ways."""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from rich.progress import track

from panoptic_occ.common.errors import ConfigError, PanopticOccError, did_you_mean
from panoptic_occ.common.files import read_json
from scripts import documents
from scripts.benchmark import jobs_maps, jobs_masks, jobs_networks
from scripts.benchmark.measure import Job, Patience, race
from scripts.documents import ROOT, fill, publish, say
from scripts.suite import environment

COLUMNS = ("job", "size", "against", "ours, ms", "theirs, ms", "ratio", "target", "reached", "ours, MB", "theirs, MB")
NOTES = (
    "Medians of repetitions in turns, in one process on one core, after the results were found equal. Times are "
    "processor time; those of jobs with several processes are by the clock. Ratio: how many times faster ours is. MB: "
    "memory that a call takes beyond its inputs, by the kernel's high-water mark."
)
Report = Mapping[str, Any]
DOC = """How fast the suite is beside the straightforward public ways, on generated inputs, in one process on one core.
Every result is compared before it is timed.

  python -m scripts.benchmark                 all jobs, less than five minutes; writes results/benchmark.json and .md
  python -m scripts.benchmark --job pq paste  some jobs; writes only with --out
  python -m scripts.benchmark --quick         few repetitions; writes only with --out
  python -m scripts.benchmark --documents     fills the documents' table from results/benchmark.json"""
EXTRAS = {
    "options": "train and evaluate with every option, on the GPU where there is one, in place of the jobs",
    "throughput": "count the images a second of evaluate saved=true and prepare, likewise",
    "growth": "measure time and memory against the number of instances, likewise",
}


def main(arguments: Sequence[str] | None = None, root: Path = ROOT) -> int:
    """The command; the exit status is 1 when a result was wrong.  ``root``: of the documents and the results."""
    parser = argparse.ArgumentParser(description=DOC, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", action="store_true", help="show the jobs, run nothing")
    parser.add_argument("--job", nargs="+", default=[], metavar="NAME", help="only these jobs")
    parser.add_argument("--quick", action="store_true", help="few repetitions: to see that everything works")
    parser.add_argument("--out", type=Path, help="the JSON file to write; the Markdown table is written beside it")
    parser.add_argument("--documents", action="store_true", help="fill their table from the results, run nothing")
    for name, about in EXTRAS.items():
        parser.add_argument(f"--{name}", action="store_true", help=about)
    options = parser.parse_args(arguments)
    results = root / "results" / "benchmark.json"
    try:
        extras = [name for name in EXTRAS if getattr(options, name)]
        for name in extras:
            import_module(f"scripts.benchmark.{name}").run((options.out or results).parent, options.quick)
        if options.list:
            say("\n".join(f"{job.name:12} {job.about}, {job.size}" for job in jobs()))
        elif options.documents:
            table = markdown(read_json(results), required=True)
            say(f"Written to {fill('bench', table, 'python -m scripts.benchmark --documents', root)}")
        elif not extras:
            partial = bool(options.job) or options.quick
            return _measure(jobs(options.job), options.quick, options.out or (None if partial else results))
    except PanopticOccError as error:
        sys.exit(f"error: {error}")
    return 0


def jobs(names: Sequence[str] = ()) -> list[Job]:
    """The jobs of these names, or all, in the order of the table; ConfigError for an unknown name."""
    every = [*jobs_maps.jobs(), *jobs_masks.jobs(), *jobs_networks.jobs()]
    allowed = {job.name for job in every}
    if name := next((name for name in names if name not in allowed), None):
        raise ConfigError(f"--job {name}: there is no such job; {did_you_mean(name, allowed)}")
    return [job for job in every if not names or job.name in names]


def report(outcomes: Sequence[Report], seconds: float) -> dict[str, Any]:
    """Everything that was measured, and on what."""
    processor = platform.processor() or platform.machine()
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), processor)
    machine = {"processor": processor, "cores": os.cpu_count(), **environment()}
    return {"environment": machine, "seconds": round(seconds, 1), "jobs": list(outcomes)}


def rows(content: Report, required: bool = False) -> list[tuple[str, ...]]:
    """The cells under COLUMNS, a row for every stand-in; ``required``: only those with a target."""
    cells: list[tuple[str, ...]] = []
    for job in content["jobs"]:
        if job["problem"]:
            cells.append((job["about"], job["size"], f"WRONG: {job['problem']}", *("-" * 4), "no", "-", "-"))
        for line in job["lines"]:
            ours, theirs, target = job["ours"], line["theirs"], line["target"]
            if required and target is None:
                continue
            ratio = theirs and theirs["median"] / ours["median"]
            reached = "-" if ratio is None or target is None else "yes" if ratio >= target else "no"
            times = _number(ours["median"]), _number(theirs["median"]) if theirs else "not installed"
            judged = f"{_number(ratio)}x" if ratio else "-", f"{target:g}x" if target else "-", reached
            memory = (_number(timing["memory"] if timing else None, ".1f") for timing in (ours, theirs))
            cells.append((job["about"], job["size"], line["stand_in"], *times, *judged, *memory))
    return cells


def _number(value: float | None, form: str = ".3g") -> str:
    """Three digits, no exponent, or as ``form`` says."""
    return "-" if value is None else f"{value:.0f}" if value >= 100 and form == ".3g" else f"{value:{form}}"


def markdown(content: Report, required: bool = False) -> str:
    """The whole table, or (``required``) the rows with a target without memory, and what was measured how and where."""
    header = COLUMNS[:8] if required else COLUMNS
    table = documents.markdown(header, [row[: len(header)] for row in rows(content, required)], text=3)
    machine = content["environment"]
    packages = ", ".join(f"{name} {machine['packages'][name]}" for name in ("torch", "torchvision", "torchmetrics"))
    where = (
        f"{machine['processor']}, one of {machine['cores']} cores; Python {machine['python']}, {packages}; the whole "
        f"benchmark took {content['seconds'] / 60:.1f} minutes."
    )
    return "\n\n".join([table, where, *([] if required else [NOTES])])


def _measure(selection: Sequence[Job], quick: bool, out: Path | None) -> int:
    start, patience = time.perf_counter(), Patience(seconds=0.3, turns=1, most=5) if quick else Patience()
    # drawn between jobs only, so that nothing runs beside them
    bar = track(selection, "jobs", transient=True, auto_refresh=False, disable=not sys.stdout.isatty())
    content = report([race(job, patience) for job in bar], time.perf_counter() - start)
    if out is not None:
        publish(out, content, f"# Benchmark\n\n{markdown(content)}\n")
    say(markdown(content) + (f"\n\nWritten to {out} and {out.with_suffix('.md')}" if out else ""))
    return int(any(job["problem"] for job in content["jobs"]))
