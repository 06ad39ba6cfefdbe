"""Writes and shows what a run found: numbers as JSON, CSV and text, and a sheet of pictures."""

from __future__ import annotations

import csv
import io
import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
from types import TracebackType

import torch
from omegaconf import DictConfig
from PIL import Image
from rich.console import Console
from rich.table import Table

from panoptic_occ.categories import Categories
from panoptic_occ.data.panoptic_io import PanopticResultWriter
from panoptic_occ.errors import ConfigError
from panoptic_occ.evaluation import Evaluation
from panoptic_occ.files import write_json, write_text
from panoptic_occ.metrics.breakdown import BreakdownResult
from panoptic_occ.metrics.panoptic_quality import PQResult, panoptic_quality
from panoptic_occ.metrics.table import SEPARATOR, breakdown_tables, comparison_table, pq_table, to_text
from panoptic_occ.model import BaseOutput
from panoptic_occ.processes import agreed, gathered, leads
from panoptic_occ.structures import PanopticMap, Sample
from panoptic_occ.visuals.grid_plot import GridPoint, save_grid
from panoptic_occ.visuals.sheet import MostDifferent, SheetRow, save_sheet, sheet

Rows = Mapping[str, Mapping[str, float]]
GROUPS = {"": "", "_th": " th", "_st": " st"}
TIMES = {"network_ms": "network ms", "relation_ms": "relation ms", "fusion_ms": "fusion ms"}
AS_THEY_ARE = {*TIMES, "FPS"}
# What the table at the end of a run shows, under which heading; metrics.json and metrics.csv hold everything.
COLUMNS = {
    "PQ": "PQ",
    "SQ": "SQ",
    "RQ": "RQ",
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
# The same where policies are compared too (experiment=cross).
CROSS_COLUMNS = {
    **{f"{score}{end}": f"{score}{head}" for end, head in GROUPS.items() for score in ("PQ", "SQ", "RQ")},
    "relation_accuracy": "order right",
    "coverage": "coverage",
    "cycle_rate": "cycles",
    "by_score": "by score",
    **TIMES,
}

IMAGES_BEHIND = 8


def summary(rows: Rows, title: str) -> Table:
    """One row a relation; percent.

    ``order right``: relation accuracy over the detected ``pairs``, which are the ``coverage`` of the annotated ones;
    ``cycles`` among triples of decided pairs; ``by score``: overlapping pairs that the scores alone decided.
    """
    columns = CROSS_COLUMNS if any(SEPARATOR in name for name in rows) else COLUMNS
    shown: dict[str, dict[str, float | str]] = {}
    for name, row in rows.items():
        shown[name] = {
            head: row[key] if key not in AS_THEY_ARE else "-" if math.isnan(row[key]) else f"{row[key]:.2f}"
            for key, head in columns.items()
            if key in row
        }
    return comparison_table(shown, title)


def show(cfg: DictConfig, folder: Path, metrics: dict[str, object]) -> None:
    """Prints the table of a run and where everything lies, once for all its processes."""
    if not leads():
        return
    console = Console()
    title = f"{cfg.choices.data}: {metrics['images']} held-out images, seed {cfg.seed}, percent"
    console.print(to_text(summary(read_rows(metrics), title)), markup=False, highlight=False, soft_wrap=True)
    console.print(f"Results, per-class tables and pictures: {folder}", soft_wrap=True, markup=False)


def write_results(folder: Path, evaluation: Evaluation, method: str, images: int) -> dict[str, object]:
    """Writes metrics.csv, metrics.md, pq.json, pq.txt and, last, metrics.json, which makes the run finished; returns
    the latter.  All processes of a run call it, and the first one writes.

    The settings of a grid are columns of the CSV and ``settings`` of the JSON, and one or two are shown in grid.png.
    With details also breakdown.json and breakdown.txt.
    """
    # the metrics sum up over the processes when they are computed, so that all must do it
    rows, quality, breakdowns = evaluation.rows(), evaluation.results(), evaluation.breakdowns()
    return agreed(lambda: _write(folder, evaluation, method, images, rows, quality, breakdowns))


def _write(
    folder: Path,
    evaluation: Evaluation,
    method: str,
    images: int,
    rows: Rows,
    quality: Mapping[str, PQResult],
    breakdowns: Mapping[str, BreakdownResult],
) -> dict[str, object]:
    settings = {entry.name: dict(entry.values) for entry in evaluation.entries if entry.values}
    keys = list(dict.fromkeys(key for values in settings.values() for key in values))
    names = list(next(iter(rows.values())))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["relation", *keys, *names])
    for relation, row in rows.items():
        values = settings.get(relation, {})
        writer.writerow([relation, *(values.get(key) for key in keys), *(row[name] for name in names)])
    write_text(folder / "metrics.csv", text.getvalue())
    write_text(folder / "metrics.md", to_text(summary(rows, f"{method}: {images} images, percent")))
    if breakdowns:
        write_json(folder / "breakdown.json", {name: part.as_dict() for name, part in breakdowns.items()}, indent=2)
        write_text(folder / "breakdown.txt", "\n".join(map(to_text, breakdown_tables(breakdowns))))
    write_json(folder / "pq.json", {name: result.as_dict() for name, result in quality.items()}, indent=2)
    tables = [f"{name}\n{to_text(pq_table(result))}" for name, result in quality.items()]
    write_text(folder / "pq.txt", "\n".join(tables))
    plain = {
        r: {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in row.items()} for r, row in rows.items()
    }
    metrics: dict[str, object] = {"method": method, "images": images, "relations": plain}
    if settings:
        metrics["settings"] = settings
        points = []
        for entry in evaluation.entries:
            order = SEPARATOR.join(part for part in (entry.relation, entry.policy_name) if part)
            points.append(GridPoint(order, entry.values, rows[entry.name]["PQ"]))
        save_grid(folder / "grid.png", points, method)
    write_json(folder / "metrics.json", metrics, indent=2)
    return metrics


def read_rows(metrics: Mapping[str, object]) -> dict[str, dict[str, float]]:
    """The rows of a metrics.json; numbers that could not be computed come back as NaN."""
    relations = metrics["relations"]
    assert isinstance(relations, dict)
    return {r: {k: math.nan if v is None else v for k, v in row.items()} for r, row in relations.items()}


class MapWriter(PanopticResultWriter):
    """A listener that writes the maps of one entry in the official format, below ``target``.

    Every process of a run writes those of its images, and the first one, when all have ended, the list of all maps.
    """

    def __init__(self, target: Path, categories: Categories, entry: str) -> None:
        super().__init__(target / "panoptic", target / "panoptic.json", categories)
        self.entry = entry

    @classmethod
    def of(cls, evaluation: Evaluation, method: str, target: Path, categories: Categories) -> MapWriter:
        """A writer for the run's method; ConfigError when there is not exactly one map of it an image."""
        if method not in evaluation.quality:
            raise ConfigError(
                "save_maps=true writes one map an image, but grid or policies make several; leave grid and policies "
                "out and choose the values with fusion.* and occlusion.*"
            )
        return cls(target, categories, method)

    def __enter__(self) -> MapWriter:
        return self

    def __call__(self, sample: Sample, output: BaseOutput, maps: Mapping[str, PanopticMap]) -> None:
        """Writes the map of one image."""
        self.write(sample.image_id, sample.file_name, maps[self.entry])

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            gathered(None)  # waits for the others
            agreed(self.close)


class InBackground:
    """Functions that get every image in a thread of their own, so that the network need not wait for them: the metrics,
    and listeners, which wait for codecs and disks.

    They see the images one after the other, and are at most IMAGES_BEHIND behind, which bounds the memory.  A context
    manager: at its end everything has been seen.  What a function raises is raised by a later call, or at the end.
    """

    def __init__(self, functions: Sequence[Callable[..., object]]) -> None:
        self.functions = tuple(functions)
        self._pending: deque[Future[None]] = deque()

    def __enter__(self) -> InBackground:
        self._pool = ThreadPoolExecutor(1)
        return self

    def __call__(self, *image: object) -> None:
        """Hands one image over, as the functions take it."""
        while self._pending and (len(self._pending) >= IMAGES_BEHIND or self._pending[0].done()):
            self._pending.popleft().result()
        self._pending.append(self._pool.submit(self._tell, *image))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._pool:
            try:
                while kind is None and self._pending:
                    self._pending.popleft().result()
            finally:
                self._pool.shutdown(wait=False, cancel_futures=True)

    @torch.inference_mode()  # which every thread enters for itself
    def _tell(self, *image: object) -> None:
        for function in self.functions:
            function(*image)


class Pictures:
    """Collects the ``count`` images on which score order and the method differ most, for the sheet, and the first
    ``fixed`` images, which are the same in every run; bounded memory."""

    def __init__(self, categories: Categories, method: str, count: int, fixed: int = 0) -> None:
        self.categories = categories
        self.method = method
        self.baseline = "score" if method != "score" else "ground_truth"
        self.fixed = fixed
        self._first: list[SheetRow] = []
        self._most = MostDifferent(count, self.baseline, method)

    def __call__(self, sample: Sample, output: BaseOutput, maps: Mapping[str, PanopticMap]) -> None:
        """Looks at one image."""
        if sample.target is None or self.baseline not in maps:
            return
        image, target = sample.original_image.cpu(), _on_cpu(sample.target.panoptic)
        shown = {name: _on_cpu(maps[name]) for name in (self.baseline, self.method)}
        notes = {"ground truth": f"{len(sample.target.labels)} things"}
        row = SheetRow(image, target, shown, f"image {sample.image_id}", notes)
        self._most.add(row)
        if len(self._first) < self.fixed:
            self._first.append(row)

    def save(self, path: Path) -> bool:
        """Writes the sheet of what all processes saw together; False when no image could be shown."""
        rows = [self._with_quality(row) for row in MostDifferent.merged(gathered(self._most)).rows()]
        if rows and leads():
            save_sheet(path, rows, self.categories, baseline=self.baseline, method=self.method)
        return bool(rows)

    def fixed_sheets(self) -> dict[str, Image.Image]:
        """The fixed images, each on a sheet of its own, by caption; all processes together have them."""
        seen = zip_longest(*gathered(self._first))  # the processes have taken the images in turns
        rows = [self._with_quality(row) for some in seen for row in some if row is not None][: self.fixed]
        return {row.caption: sheet([row], self.categories, self.baseline, self.method) for row in rows}

    def _with_quality(self, row: SheetRow) -> SheetRow:
        """``row`` with the quality of its maps in its notes."""
        quality = {name: panoptic_quality([found], [row.target], self.categories) for name, found in row.panels.items()}
        return replace(row, notes={**row.notes, **{n: f"PQ {100 * q.all.pq:.1f}" for n, q in quality.items()}})


def _on_cpu(panoptic: PanopticMap) -> PanopticMap:
    return replace(panoptic, ids=panoptic.ids.cpu())
