"""What looks at every image of an evaluation: the writer of its maps, and the collector of pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path

from PIL import Image

from panoptic_occ.common.distributed import all_gather, broadcast_from_main, is_distributed, is_main_process
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
    """A listener that writes the maps of the run's method in the official format, below ``target``.

    ``file_names``: of the evaluated images; the maps of an earlier evaluation are removed before the first is written.
    Every process of a run writes the maps of its images; when all have ended, the first one writes the list of all.
    ConfigError when an image has several maps of the method; DataError for a file in the way that is no map.
    """

    def __init__(
        self, evaluation: Evaluation, method: str, target: Path, categories: Categories, file_names: Sequence[str]
    ) -> None:
        super().__init__(target / "panoptic", target / "panoptic.json", categories)
        self.method = method
        self.file_names = file_names
        if method not in evaluation.by_entry:
            raise ConfigError(
                "save_maps=true writes one map an image, but grid or policies make several; leave grid and policies "
                "out and choose the values with fusion.* and occlusion.*"
            )

    def __enter__(self) -> MapWriter:
        if is_main_process() or is_distributed():  # a process that the first one starts finds room
            broadcast_from_main(lambda: self.clear(self.file_names))
        return self

    def __call__(self, sample: Sample, output: BaseOutput, maps: Mapping[str, PanopticMap]) -> None:
        """Writes the map of one image."""
        self.write(sample.image_id, sample.file_name, maps[self.method])

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            all_gather(None)  # waits for the others
            broadcast_from_main(self.close)


@dataclass(eq=False)
class Pictures:
    """Collects the ``count`` images on which score order and the method differ most, for the sheet, and the first
    ``fixed`` images, which are the same in every run; bounded memory."""

    categories: Categories
    method: str
    count: int
    fixed: int = 0

    def __post_init__(self) -> None:
        self.baseline = "score" if self.method != "score" else "ground_truth"
        self._first: list[SheetRow] = []
        self._most = MostDifferent(self.count, self.baseline, self.method)

    def __call__(self, sample: Sample, output: BaseOutput, maps: Mapping[str, PanopticMap]) -> None:
        """Looks at one image."""
        if sample.target is None or not {self.baseline, self.method} <= maps.keys():
            return  # a grid has several maps of a method
        image, target = sample.original_image.cpu(), _on_cpu(sample.target.panoptic)
        panels = {name: _on_cpu(maps[name]) for name in (self.baseline, self.method)}
        notes = {"ground truth": f"{len(sample.target.labels)} things"}
        row = SheetRow(image, target, panels, f"image {sample.image_id}", notes)
        self._most.add(row)
        if len(self._first) < self.fixed:
            self._first.append(row)

    def save(self, path: Path) -> bool:
        """Writes the sheet of the images of all processes; False when no image could be shown."""
        rows = [self._with_quality(row) for row in MostDifferent.merged(all_gather(self._most)).rows()]
        if rows and is_main_process():
            save_sheet(path, sheet(rows, self.categories, self.baseline, self.method))
        return bool(rows)

    def fixed_sheets(self) -> dict[str, Image.Image]:
        """The fixed images of all processes, each on a sheet of its own, by caption."""
        turns = zip_longest(*all_gather(self._first))  # the processes have taken the images in turns
        rows = [self._with_quality(row) for turn in turns for row in turn if row is not None][: self.fixed]
        return {row.caption: sheet([row], self.categories, self.baseline, self.method) for row in rows}

    def _with_quality(self, row: SheetRow) -> SheetRow:
        """``row`` with the quality of its maps in its notes."""
        quality = {name: panoptic_quality([panel], [row.target], self.categories) for name, panel in row.panels.items()}
        return replace(row, notes={**row.notes, **{n: f"PQ {100 * q.all.pq:.1f}" for n, q in quality.items()}})


def _on_cpu(panoptic: PanopticMap) -> PanopticMap:
    return replace(panoptic, ids=panoptic.ids.cpu())
