"""Writes and shows the numbers of a run: as JSON, CSV, tables and, of a grid, a picture."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console

from panoptic_occ.common.distributed import broadcast_from_main, is_main_process
from panoptic_occ.common.errors import ConfigError
from panoptic_occ.common.files import write_json, write_text
from panoptic_occ.common.tables import SEPARATOR, comparison_table
from panoptic_occ.common.terminal import printable
from panoptic_occ.evaluation.evaluator import Evaluation
from panoptic_occ.metrics.breakdown import breakdown_tables
from panoptic_occ.metrics.pq.scores import pq_table
from panoptic_occ.runs.plan import RunPlan
from panoptic_occ.visuals.grid_plot import GridPoint, save_grid

Rows = Mapping[str, Mapping[str, float]]

TIMES = {"network_ms": "network ms", "relation_ms": "relation ms", "fusion_ms": "fusion ms"}
COLUMNS = {
    **{name: name for name in ("PQ", "SQ", "RQ")},
    "PQ_th": "PQ things",
    "PQ_st": "PQ stuff",
    "relation_accuracy": "order right",
    "pairs": "pairs",
    "by_score": "by score",
    "AP_box": "AP boxes",
    "AP_mask": "AP masks",
    **TIMES,
    "FPS": "images/s",
}
"""What the table at the end of a run shows, and its heads; metrics.json and metrics.csv hold everything."""
CROSS_COLUMNS = {
    **{
        f"{score}{end}": f"{score}{end.replace('_', ' ')}" for end in ("", "_th", "_st") for score in ("PQ", "SQ", "RQ")
    },
    "relation_accuracy": "order right",
    "coverage": "coverage",
    "cycle_rate": "cycles",
    "by_score": "by score",
    **TIMES,
}
"""The same where policies are compared too (experiment=cross)."""


def summary(rows: Rows, title: str) -> str:
    """A table with one row an order; percent.

    ``order right``: relation accuracy over the detected ``pairs``, which are the ``coverage`` of the annotated ones;
    ``cycles`` among triples of decided pairs; ``by score``: overlapping pairs that the scores alone decided.
    """
    columns = CROSS_COLUMNS if any(SEPARATOR in name for name in rows) else COLUMNS
    heads = {name: {columns[key]: _shown(key, row[key]) for key in columns if key in row} for name, row in rows.items()}
    return comparison_table(heads, title)


def show(plan: RunPlan, folder: Path, metrics: dict[str, object]) -> None:
    """Prints the table of a run and where everything lies, once for all its processes."""
    if not is_main_process():
        return
    console = Console()
    title = f"{plan.data_choice}: {metrics['images']} held-out images, seed {plan.seed}, percent"
    console.print(summary(read_rows(metrics), title), markup=False, highlight=False, soft_wrap=True)
    console.print(printable(f"Results, per-class tables and pictures: {folder}"), soft_wrap=True, markup=False)


def scored_images(evaluation: Evaluation, images: int | None) -> int:
    """How many images ``evaluation`` has scored; ConfigError when these are not ``images``, if that is given.  All
    processes of a run call it."""
    scored: int = evaluation.images.compute()
    if images not in (None, scored):
        raise ConfigError(
            f"{scored} of {images} images were scored, and no result is written: something has ended the evaluation "
            "early, or shown images twice. Leave out what changes it (a callback, or a trainer of your own); "
            "data.max_eval_images=N evaluates N images"
        )
    return scored


def write_results(folder: Path, evaluation: Evaluation, method: str, images: int) -> dict[str, object]:
    """Writes metrics.csv, metrics.md, pq.json, pq.txt and, last, metrics.json, which makes the run finished; returns
    the latter.  All processes of a run call it, and the first one writes.

    The settings of a grid are columns of the CSV and ``settings`` of the JSON, and one or two are shown in grid.png.
    With details also breakdown.json and breakdown.txt.
    """
    # the metrics sum up over the processes when they are computed, so that all must do it
    rows, quality, breakdowns = evaluation.rows(), evaluation.results(), evaluation.breakdowns()
    settings = {entry.name: dict(entry.values) for entry in evaluation.entries if entry.values}

    def write() -> dict[str, object]:
        write_text(folder / "metrics.csv", _comma_separated(rows, settings))
        write_text(folder / "metrics.md", summary(rows, f"{method}: {images} images, percent"))
        if breakdowns:
            write_json(folder / "breakdown.json", {name: part.as_dict() for name, part in breakdowns.items()}, indent=2)
            write_text(folder / "breakdown.txt", "\n".join(breakdown_tables(breakdowns)))
        write_json(folder / "pq.json", {name: result.as_dict() for name, result in quality.items()}, indent=2)
        write_text(folder / "pq.txt", "\n".join(f"{name}\n{pq_table(result)}" for name, result in quality.items()))
        plain = {
            name: {key: None if math.isnan(value) else value for key, value in row.items()}
            for name, row in rows.items()
        }
        metrics: dict[str, object] = {"method": method, "images": images, "relations": plain}
        if settings:
            metrics["settings"] = settings
            points = [
                GridPoint(SEPARATOR.join(filter(None, (e.order, e.policy_name))), e.values, rows[e.name]["PQ"])
                for e in evaluation.entries
            ]
            save_grid(folder / "grid.png", points, method)
        write_json(folder / "metrics.json", metrics, indent=2)
        return metrics

    return broadcast_from_main(write)


def read_rows(metrics: Mapping[str, object]) -> dict[str, dict[str, float]]:
    """The rows of a metrics.json; numbers that could not be computed come back as NaN."""
    relations = metrics["relations"]
    assert isinstance(relations, dict)
    return {r: {k: math.nan if v is None else v for k, v in row.items()} for r, row in relations.items()}


def _comma_separated(rows: Rows, settings: Mapping[str, Mapping[str, object]]) -> str:
    keys = dict.fromkeys(key for values in settings.values() for key in values)
    text = io.StringIO()
    writer = csv.DictWriter(text, ["relation", *keys, *next(iter(rows.values()))], lineterminator="\n")
    writer.writeheader()
    writer.writerows({"relation": entry, **settings.get(entry, {}), **row} for entry, row in rows.items())
    return text.getvalue()


def _shown(key: str, value: float) -> float | str:
    """Fractions and counts as they are; milliseconds and images per second with two digits."""
    if key not in TIMES and key != "FPS":
        return value
    return "-" if math.isnan(value) else f"{value:.2f}"
