"""Writes and shows what a run found: numbers as JSON, CSV and text, and a sheet of pictures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
from types import TracebackType

from PIL import Image

from panoptic_occ.common.distributed import all_gather, broadcast_from_main, is_main_process
from panoptic_occ.common.errors import ConfigError
from panoptic_occ.data.coco.panoptic_io import PanopticResultWriter
from panoptic_occ.evaluation.evaluator import Evaluation
from panoptic_occ.metrics.pq.metric import panoptic_quality
from panoptic_occ.structures.base_output import BaseOutput
from panoptic_occ.structures.categories import Categories
from panoptic_occ.structures.panoptic_map import PanopticMap
from panoptic_occ.structures.sample import Sample
from panoptic_occ.visuals.sheet import MostDifferent, SheetRow, save_sheet, sheet


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
            all_gather(None)  # waits for the others
            broadcast_from_main(self.close)


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
        rows = [self._with_quality(row) for row in MostDifferent.merged(all_gather(self._most)).rows()]
        if rows and is_main_process():
            save_sheet(path, rows, self.categories, baseline=self.baseline, method=self.method)
        return bool(rows)

    def fixed_sheets(self) -> dict[str, Image.Image]:
        """The fixed images, each on a sheet of its own, by caption; all processes together have them."""
        seen = zip_longest(*all_gather(self._first))  # the processes have taken the images in turns
        rows = [self._with_quality(row) for some in seen for row in some if row is not None][: self.fixed]
        return {row.caption: sheet([row], self.categories, self.baseline, self.method) for row in rows}

    def _with_quality(self, row: SheetRow) -> SheetRow:
        """``row`` with the quality of its maps in its notes."""
        quality = {name: panoptic_quality([found], [row.target], self.categories) for name, found in row.panels.items()}
        return replace(row, notes={**row.notes, **{n: f"PQ {100 * q.all.pq:.1f}" for n, q in quality.items()}})


def _on_cpu(panoptic: PanopticMap) -> PanopticMap:
    return replace(panoptic, ids=panoptic.ids.cpu())
