"""Panoptic quality of a result on disk (the official format), on all cores and without torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from difflib import get_close_matches
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from panoptic_occ.common.errors import DataError
from panoptic_occ.common.parallel import ordered_map
from panoptic_occ.data.coco.json_file import CocoJson, ImageId, id_or_name, name_in
from panoptic_occ.data.coco.panoptic_io import read_panoptic_png, red_blue_swapped
from panoptic_occ.metrics.pq.core import VOID_ID, PQCounts, SegmentRow, listed_ids, match_segments, overlap_table
from panoptic_occ.metrics.pq.matching import match_images
from panoptic_occ.metrics.pq.scores import PQResult, result_of
from panoptic_occ.structures.categories import Categories

CHUNK = 16
"""Images that a worker takes at a time: about 0.1 s of work, for which the others wait at most in the end."""
Task = tuple[ImageId, Path, Path, list[SegmentRow], list[SegmentRow]]
"""An image, the PNGs of its ground truth and its prediction, and their segments."""


class FilesResult(NamedTuple):
    """PQ of a result on disk; ``by_name`` predictions of other ids were matched by file name, ``wrong_areas``
    ground-truth segments of ``wrong_images`` do not have as many pixels as stated, of which ``example`` tells one;
    the ground truth of ``void_images`` lists VOID as a segment, that of ``repeated_images`` an id more than once, of
    which ``repeated`` tells one."""

    result: PQResult
    by_name: int
    wrong_areas: int
    wrong_images: int
    example: str
    void_images: int
    repeated_images: int
    repeated: str


def panoptic_quality_of_files(
    gt_json: Path,
    prediction_json: Path,
    gt_folder: Path | None = None,
    prediction_folder: Path | None = None,
    processes: int | None = None,
) -> FilesResult:
    """PQ of a result against the annotations; a folder defaults to its JSON's path without ``.json``.

    A prediction belongs to the image of its id or, where the ids differ, of its file name (``match_images``).  The
    number of processes (None: all cores) does not change the result.  Raises DataError for missing or broken files,
    images without a prediction, unknown categories, and maps that contradict their JSON.
    """
    target = _PanopticJson(gt_json, gt_folder, "ground truth")
    prediction = _PanopticJson(prediction_json, prediction_folder, "prediction")
    target.load("categories")
    prediction.load()
    categories = target.json.categories()
    matches = match_images(target.names(), prediction.names(), gt_json, prediction_json)
    tasks = (
        (
            image_id,
            target.png(image_id),
            prediction.png(number),
            target.segments(image_id, categories),
            prediction.segments(number, categories, predicted=True),
        )
        for image_id, number in matches.items()
    )
    by_name = sum(image_id != number for image_id, number in matches.items())
    total, wrong_areas, wrong_images, void_images, example = PQCounts.zeros(len(categories)), 0, 0, 0, ""
    repeated_images, repeated = 0, ""
    count = partial(_count_image, num_categories=len(categories))
    for counts, wrong, lists_void, twice in ordered_map(count, tasks, len(matches), processes, "images", CHUNK):
        total += counts
        wrong_areas, wrong_images = wrong_areas + len(wrong), wrong_images + bool(wrong)
        void_images += lists_void
        repeated_images, repeated = repeated_images + bool(twice), repeated or twice
        example = example or "".join(wrong[:1])
    result = result_of(total, categories)
    return FilesResult(result, by_name, wrong_areas, wrong_images, example, void_images, repeated_images, repeated)


@cache
def _keep_freed_memory() -> None:
    """Has the C library keep what the maps of an image take for those of the next; once in every process.

    glibc gives large blocks back to the kernel, which clears every page of the next one; it stops that for blocks as
    large as the largest that it saw freed, up to 32 MB.  Without this an image takes a fifth longer.
    """
    np.empty(31 * 2**20, np.uint8)


def _count_image(task: Task, num_categories: int) -> tuple[PQCounts, list[str], bool, str]:
    """Counts of an image, the ground-truth segments that have another area than stated, whether VOID is one, and one
    whose id another has too."""
    _keep_freed_memory()
    image_id, target_png, prediction_png, target_rows, prediction_rows = task
    source = f"{prediction_png} (image {image_id})"
    target_ids = read_panoptic_png(target_png)
    prediction_ids = read_panoptic_png(prediction_png)
    if target_ids.shape != prediction_ids.shape:
        raise DataError(
            f"{source}: (height, width) is {prediction_ids.shape}, that of the ground truth {target_png} is "
            f"{target_ids.shape}; predict at the size of the original image"
        )
    listed = listed_ids(target_rows)
    table = overlap_table(target_ids, prediction_ids, listed, listed_ids(prediction_rows), source)
    counts = match_segments(table, target_rows, prediction_rows, num_categories, source).counts(num_categories)
    pixels = dict(zip(listed.tolist(), table.sum(axis=1).tolist(), strict=False))  # without the row of unlisted ids
    wrong = [
        f"{target_png}, segment {row.id}: area {row.area:g} in the JSON, {pixels[row.id]} pixels in the PNG"
        for row in target_rows
        if row.area != pixels[row.id]
    ]
    if wrong and {row.id for row in target_rows} <= {*map(red_blue_swapped, np.unique(target_ids).tolist())}:
        wrong[0] += "; red and blue are swapped in it"
    ids = Counter(row.id for row in target_rows)
    twice = next((f"image {image_id}, segment {number}" for number, count in ids.items() if count > 1), "")
    return counts, wrong, VOID_ID in ids, twice


class _PanopticJson:
    """A panoptic JSON and the folder of its PNGs; ``what`` names them in errors."""

    def __init__(self, file: Path, folder: Path | None, what: str) -> None:
        if not file.exists():
            near = get_close_matches(file.name, [path.name for path in file.parent.glob("*.json")])
            hint = f"similar names there: {', '.join(near)}" if near else "no file there has a similar name"
            raise DataError(f"{file}: the JSON of the {what} does not exist; {hint}")
        self.file = file
        self.folder = folder or Path(str(file).removesuffix(".json"))
        if not self.folder.is_dir():
            raise DataError(
                f"{self.folder}: the folder with the PNGs of the {what} does not exist; name it with its option"
            )

    def load(self, *lists: str) -> None:
        """Reads the ``annotations``, and other ``lists`` that must be there too."""
        self.json = CocoJson(self.file, "panoptic", "annotations", *lists)
        self.maps = self.json.maps(id_or_name)

    def names(self) -> dict[ImageId, list[str]]:
        """File names of every image: its own, if ``images`` lists it, and that of its map."""
        images = self.json.content.get("images")
        entries = [entry for entry in images if isinstance(entry, Mapping)] if isinstance(images, list) else []
        name_of: dict[ImageId, object] = {}
        for entry in entries:
            with suppress(ValueError):
                name_of[id_or_name(entry.get("id"))] = entry.get("file_name")
        both = {number: (name_of.get(number), entry.get("file_name")) for number, entry in self.maps.items()}
        return {number: [name for name in names if name and isinstance(name, str)] for number, names in both.items()}

    def png(self, image_id: ImageId) -> Path:
        """The map of an image."""
        name = self.json.name(self.maps[image_id], "file_name", f"image {image_id}")
        return self.folder / name_in(self.folder, name)

    def segments(self, image_id: ImageId, categories: Categories, *, predicted: bool = False) -> list[SegmentRow]:
        """The segments of an image."""
        what = f"image {image_id}"
        return [
            SegmentRow(
                s.id, categories.label_of(s.category_id, f"{self.file}: {what}, segment {s.id}"), s.area, s.iscrowd
            )
            for s in self.json.segments(self.maps[image_id], what, predicted=predicted)
        ]
