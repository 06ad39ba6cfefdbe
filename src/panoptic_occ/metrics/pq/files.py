"""Panoptic quality of a result on disk (the official format), on all cores and without torch."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from functools import cache, partial
from pathlib import Path
from types import UnionType
from typing import Any, NamedTuple

import numpy as np

from panoptic_occ.common.errors import DataError
from panoptic_occ.common.files import read_json
from panoptic_occ.common.parallel import ordered_map
from panoptic_occ.data.coco.panoptic_io import read_panoptic_png
from panoptic_occ.metrics.pq.core import PQCounts, SegmentRow, listed_ids, match_segments, overlap_table, some
from panoptic_occ.metrics.pq.scores import PQResult, result_of
from panoptic_occ.structures.categories import Categories

CHUNK = 16
"""Images that a worker takes at a time: about 0.1 s of work, for which the others wait at most in the end."""
ImageId = int | str
Names = Mapping[ImageId, Sequence[str]]
"""File names by image id: that of the image, where it is known, and that of its panoptic map."""
Task = tuple[ImageId, Path, Path, list[SegmentRow], list[SegmentRow]]
"""An image, the PNGs of its ground truth and its prediction, and their segments."""

_KINDS: dict[type | UnionType, str] = {
    int: "a whole number of 64 bits",
    int | float: "a number",
    int | str: "a number or a name",
    str: "a name",
    list: "a list",
}


class FilesResult(NamedTuple):
    """PQ of a result on disk; ``by_name`` predictions of other ids were matched by file name, ``wrong_areas``
    ground-truth segments of ``wrong_images`` do not have as many pixels as stated, of which ``example`` tells one."""

    result: PQResult
    by_name: int
    wrong_areas: int
    wrong_images: int
    example: str


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
    categories = Categories.from_json(target.content["categories"], str(gt_json))
    matches = match_images(target.names(), prediction.names(), gt_json, prediction_json)
    tasks = (
        (
            image_id,
            target.png(image_id),
            prediction.png(number),
            target.segments(image_id, categories, stated_areas=True),
            prediction.segments(number, categories),
        )
        for image_id, number in matches.items()
    )
    by_name = sum(image_id != number for image_id, number in matches.items())
    total, wrong_areas, wrong_images, example = PQCounts.zeros(len(categories)), 0, 0, ""
    count = partial(_count_image, num_categories=len(categories))
    for counts, wrong in ordered_map(count, tasks, len(matches), processes, "images", CHUNK):
        total += counts
        wrong_areas, wrong_images = wrong_areas + len(wrong), wrong_images + bool(wrong)
        example = example or "".join(wrong[:1])
    return FilesResult(result_of(total, categories), by_name, wrong_areas, wrong_images, example)


def match_images(images: Names, predictions: Names, image_file: Path, prediction_file: Path) -> dict[ImageId, ImageId]:
    """The id of the prediction of every image.

    If every image has a prediction of its id, that is the one, as in the official evaluation.  Otherwise the prediction
    belongs to the image whose file, or map, has its file name (that of its image, where it is known, or of its map),
    folders and endings aside; to the image of its id only if no image has its name.  Raises DataError, which names the
    files, when there is no image, for images without a prediction, for a name of several, and when ids and names both
    fit all images but contradict each other.
    """
    if not images:
        raise DataError(f"{image_file}: the data set holds no image; 'annotations' is empty")
    by_name = _by_name(images, predictions)
    uses = Counter(number for numbers in by_name.values() for number in numbers)
    unclear = [image_id for image_id, numbers in by_name.items() if len(numbers) > 1 or uses[numbers[0]] > 1]
    if images.keys() <= predictions.keys():
        others = [image_id for image_id, numbers in by_name.items() if image_id not in numbers]
        if others and not unclear and len(by_name) == len(images):
            raise DataError(
                f"{prediction_file}: prediction {_named(others[:1], predictions)} has the image_id of image "
                f"{_named(others[:1], images)} of {image_file} and the file name of another one, as have "
                f"{len(others) - 1} more; give the predictions the ids of their images, or other file names"
            )
        return {image_id: image_id for image_id in images}
    for image_id in images.keys() & predictions.keys() - uses.keys():
        by_name.setdefault(image_id, [image_id])
    if missing := [image_id for image_id in images if image_id not in by_name]:
        raise DataError(
            f"{prediction_file}: no prediction for {len(missing)} of {len(images)} images, by id nor by file name "
            f"(image_id {some(missing, 5)}); predict every image of {image_file}"
        )
    if unclear:
        numbers = by_name[unclear[0]]
        same = [image_id for image_id in unclear if set(by_name[image_id]) & set(numbers)]
        raise DataError(
            f"{prediction_file}: prediction {_named(numbers, predictions)} has the file name of image "
            f"{_named(same, images)} of {image_file}, and the ids do not tell which belongs to which; give every "
            "prediction the image_id of its image, or every image a file name of its own"
        )
    return {image_id: by_name[image_id][0] for image_id in images}


def _by_name(images: Names, predictions: Names) -> dict[ImageId, list[ImageId]]:
    """Predictions with the name of each image; one that has the id of such an image too belongs to that one alone."""
    images_of: dict[str, set[ImageId]] = defaultdict(set)
    for image_id, names in images.items():
        for name in names:
            images_of[_stem(name)].add(image_id)
    by_name: dict[ImageId, list[ImageId]] = {}
    for number, names in predictions.items():
        same_name = images_of.get(_stem(names[0]), set()) if names else set()
        for image_id in {number} & same_name or same_name:
            by_name.setdefault(image_id, []).append(number)
    return by_name


def _stem(name: str) -> str:
    return os.path.splitext(os.path.basename(name))[0]


def _named(ids: Iterable[ImageId], names: Names) -> str:
    return some([f"{number} ('{names[number][0]}')" for number in ids], 5)


@cache
def _keep_freed_memory() -> None:
    """Has the C library keep what the maps of an image take for those of the next; once in every process.

    glibc gives large blocks back to the kernel, which clears every page of the next one; it stops that for blocks as
    large as the largest that it saw freed, up to 32 MB.  Without this an image takes a fifth longer.
    """
    np.empty(31 * 2**20, np.uint8)


def _count_image(task: Task, num_categories: int) -> tuple[PQCounts, list[str]]:
    """Counts of an image, and the ground-truth segments that have another area than stated."""
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
    return counts, [
        f"{target_png}, segment {row.id}: area {row.area:g} in the JSON, {pixels[row.id]} pixels in the PNG"
        for row in target_rows
        if row.area != pixels[row.id]
    ]


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
        self.content: dict[str, Any] = {}
        self.annotations: dict[ImageId, Mapping[str, Any]] = {}

    def load(self, *lists: str) -> None:
        """Reads the ``annotations``, and other ``lists`` that must be there too."""
        content = read_json(self.file)
        for key in ("annotations", *lists):
            if not isinstance(content, dict) or not isinstance(content.get(key), list):
                keys = sorted(content) if isinstance(content, dict) else type(content).__name__
                raise DataError(
                    f"{self.file}: has no list '{key}' (found: {keys}); a COCO panoptic JSON is needed here"
                )
        for entry in content["annotations"]:
            image_id = self._read(entry, "image_id", int | str, "an annotation")
            if image_id in self.annotations:
                raise DataError(f"{self.file}: image {image_id} is listed twice in 'annotations'; keep one of them")
            self.annotations[image_id] = entry
        self.content = content

    def names(self) -> dict[ImageId, list[str]]:
        """File names of every image: its own, if ``images`` lists it, and that of its map."""
        images = self.content.get("images")
        entries = [entry for entry in images if isinstance(entry, Mapping)] if isinstance(images, list) else []
        name_of = {entry["id"]: entry.get("file_name") for entry in entries if isinstance(entry.get("id"), ImageId)}
        both = {number: (name_of.get(number), entry.get("file_name")) for number, entry in self.annotations.items()}
        return {number: [name for name in names if name and isinstance(name, str)] for number, names in both.items()}

    def png(self, image_id: ImageId) -> Path:
        """The map of an image."""
        name: str = self._read(self.annotations[image_id], "file_name", str, f"image {image_id}")
        return self.folder / name

    def segments(self, image_id: ImageId, categories: Categories, stated_areas: bool = False) -> list[SegmentRow]:
        """The segments of an image, with the areas that the JSON states or without areas."""
        rows = []
        for info in self._read(self.annotations[image_id], "segments_info", list, f"image {image_id}"):
            number = self._read(info, "id", int, f"image {image_id}, a segment")
            what = f"image {image_id}, segment {number}"
            label = categories.label_of(self._read(info, "category_id", int, what), f"{self.file}: {what}")
            area = self._read(info, "area", int | float, what) if stated_areas else 0
            rows.append(SegmentRow(number, label, area, info.get("iscrowd", 0) == 1))
        return rows

    def _read(self, entry: Mapping[str, Any], key: str, kind: type | UnionType, what: str) -> Any:
        """``entry[key]``, which must be of ``kind``; numbers must fit into 64 bits."""
        if not isinstance(entry, Mapping) or key not in entry:
            keys = sorted(entry) if isinstance(entry, Mapping) else repr(entry)
            raise DataError(f"{self.file}: {what} lacks '{key}' (found: {keys}); a COCO panoptic JSON is needed here")
        value = entry[key]
        good = isinstance(value, kind) and not isinstance(value, bool)
        if not good or (isinstance(value, int | float) and not abs(value) < 2**63):
            raise DataError(f"{self.file}: {what} has the {key} {value!r}; {_KINDS[kind]} is needed here")
        return value
