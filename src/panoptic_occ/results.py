"""Writes what a run found: numbers as JSON, CSV and text, and a sheet of pictures."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping
from pathlib import Path

from rich.table import Table

from panoptic_occ.categories import Categories
from panoptic_occ.evaluation import Evaluation
from panoptic_occ.files import write_json, write_text
from panoptic_occ.metrics.panoptic_quality import PanopticQuality
from panoptic_occ.metrics.table import comparison_table, pq_table, to_text
from panoptic_occ.model import BaseOutput
from panoptic_occ.structures import PanopticMap, Sample
from panoptic_occ.visuals.sheet import MostDifferent, SheetRow, save_sheet

Rows = Mapping[str, Mapping[str, float]]
# What the table at the end of a run shows, under which heading; metrics.json and metrics.csv hold everything.
COLUMNS = {
    "PQ": "PQ",
    "SQ": "SQ",
    "RQ": "RQ",
    "PQ_th": "PQ things",
    "PQ_st": "PQ stuff",
    "relation_accuracy": "order right",
    "pairs": "pairs",
}


def summary(rows: Rows, title: str) -> Table:
    """One row a relation; percent. ``order right``: relation accuracy over the detected pairs."""
    shown = {name: {head: row[key] for key, head in COLUMNS.items()} for name, row in rows.items()}
    return comparison_table(shown, title)


def write_results(folder: Path, evaluation: Evaluation, method: str, images: int) -> dict[str, object]:
    """Writes metrics.csv, pq.json, pq.txt and, last, metrics.json, which makes the run finished; returns the latter."""
    rows = evaluation.rows()
    names = list(next(iter(rows.values())))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["relation", *names])
    writer.writerows([relation, *(row[name] for name in names)] for relation, row in rows.items())
    write_text(folder / "metrics.csv", text.getvalue())
    quality = evaluation.results()
    write_json(folder / "pq.json", {name: result.as_dict() for name, result in quality.items()}, indent=2)
    tables = [f"{name}\n{to_text(pq_table(result))}" for name, result in quality.items()]
    write_text(folder / "pq.txt", "\n".join(tables))
    plain = {
        r: {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in row.items()} for r, row in rows.items()
    }
    metrics: dict[str, object] = {"method": method, "images": images, "relations": plain}
    write_json(folder / "metrics.json", metrics, indent=2)
    return metrics


def read_rows(metrics: Mapping[str, object]) -> dict[str, dict[str, float]]:
    """The rows of a metrics.json; numbers that could not be computed come back as NaN."""
    relations = metrics["relations"]
    assert isinstance(relations, dict)
    return {r: {k: math.nan if v is None else v for k, v in row.items()} for r, row in relations.items()}


class Pictures:
    """Collects the images on which score order and the method differ most, for the sheet; bounded memory."""

    def __init__(self, categories: Categories, method: str, count: int) -> None:
        self.categories = categories
        self.method = method
        self.baseline = "score" if method != "score" else "ground_truth"
        self._most = MostDifferent(count, self.baseline, method)

    def __call__(self, sample: Sample, output: BaseOutput, maps: Mapping[str, PanopticMap]) -> None:
        """Looks at one image."""
        if sample.target is None or self.baseline not in maps:
            return
        image, target = sample.original_image.cpu(), sample.target.panoptic
        shown = {self.baseline: maps[self.baseline], self.method: maps[self.method]}
        notes = {"ground truth": f"{len(sample.target.labels)} things"}
        for name, found in shown.items():
            metric = PanopticQuality(self.categories)
            metric.update(found, target)
            notes[name] = f"PQ {100 * metric.compute().all.pq:.1f}"
        self._most.add(SheetRow(image, target, shown, f"image {sample.image_id}", notes))

    def save(self, path: Path) -> bool:
        """Writes the sheet; False when no image could be shown."""
        rows = self._most.rows()
        if rows:
            save_sheet(path, rows, self.categories, baseline=self.baseline, method=self.method)
        return bool(rows)
