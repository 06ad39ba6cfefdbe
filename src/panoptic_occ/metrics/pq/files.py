"""Panoptic quality of a result on disk (the official format), on all cores and without torch."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from types import UnionType
from typing import Any, NamedTuple

import numpy as np

from panoptic_occ.common.errors import DataError
from panoptic_occ.common.files import read_json
from panoptic_occ.common.parallel import available_cores, worker_pool
from panoptic_occ.data.coco.panoptic_io import read_panoptic_png
from panoptic_occ.metrics.pq.core import PQCounts, SegmentRow, known_ids, match_segments, overlap_table
from panoptic_occ.metrics.pq.scores import PQResult, result_of
from panoptic_occ.structures.categories import Categories

CHUNK = 16
"""Images per task: about 0.1 s of work, for which the others wait at most in the end."""
AHEAD = 2
"""Tasks that a worker has before it, so that it never waits for the next one."""
KEPT_MB = 31
"""See ``_keep_freed_memory``."""

_KINDS: dict[type | UnionType, str] = {
    int: "a whole number of 64 bits",
    int | float: "a number",
    int | str: "a number or a name",
    str: "a name",
    list: "a list",
}

Entry = Mapping[str, Any]


@dataclass(frozen=True)
class AreaCheck:
    """Ground-truth segments whose stated area is not their number of pixels; ``first`` describes one of them."""

    segments: int = 0
    images: int = 0
    first: str = ""

    def __add__(self, other: AreaCheck) -> AreaCheck:
        return AreaCheck(self.segments + other.segments, self.images + other.images, self.first or other.first)


class _Task(NamedTuple):
    """One image: the two PNGs and their segments."""

    image_id: int | str
    target_png: Path
    prediction_png: Path
    target_rows: list[SegmentRow]
    prediction_rows: list[SegmentRow]


def panoptic_quality_of_files(
    gt_json: Path,
    prediction_json: Path,
    gt_folder: Path | None = None,
    prediction_folder: Path | None = None,
    processes: int | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[PQResult, AreaCheck]:
    """PQ of a result against the annotations; a folder defaults to its JSON's path without ``.json``.

    ``on_progress(done, total)`` is called as images are finished.  The number of processes does not change the result.
    Raises DataError for missing or broken files, images without a prediction, unknown categories, and maps that
    contradict their JSON.
    """
    _keep_freed_memory()
    for file, what in (gt_json, "ground truth"), (prediction_json, "prediction"):
        _check_exists(file, what)
    folders = _folder(gt_json, gt_folder, "ground truth"), _folder(prediction_json, prediction_folder, "prediction")
    target, prediction = _load(gt_json, "annotations", "categories"), _load(prediction_json, "annotations")
    categories = Categories.from_json(target["categories"], str(gt_json))
    wanted, by_image = _by_image(target["annotations"], gt_json), _by_image(prediction["annotations"], prediction_json)
    _check_complete(wanted, by_image, gt_json, prediction_json)

    def tasks() -> Iterator[_Task]:
        for image_id, entry in wanted.items():
            guess, where = by_image[image_id], f"image {image_id}"
            yield _Task(
                image_id,
                folders[0] / _read(entry, "file_name", str, gt_json, where),
                folders[1] / _read(guess, "file_name", str, prediction_json, where),
                _rows(entry, categories, gt_json, where, annotated=True),
                _rows(guess, categories, prediction_json, where, annotated=False),
            )

    total = len(wanted)
    chunks = _chunks(tasks())
    workers = min(processes or available_cores(), -(-total // CHUNK))
    count = partial(_count_chunk, num_categories=len(categories))
    counts, check, done = PQCounts.zeros(len(categories)), AreaCheck(), 0
    for part, part_check, images in map(count, chunks) if workers == 1 else _parallel(count, chunks, workers):
        counts, check, done = counts + part, check + part_check, done + images
        on_progress(done, total)
    return result_of(counts, categories), check


_Outcome = tuple[PQCounts, AreaCheck, int]


def _parallel(
    count: Callable[[list[_Task]], _Outcome], chunks: Iterator[list[_Task]], workers: int
) -> Iterator[_Outcome]:
    """Outcomes in the order of the chunks; the first fault stops the rest.

    This process is one of the workers, and works alone while the others start.
    """
    others = workers - 1
    pending: deque[Future[_Outcome] | _Outcome] = deque()
    with worker_pool(others, _keep_freed_memory) as pool:
        for chunk in chunks:
            ahead = sum(isinstance(part, Future) and not part.done() for part in pending)
            pending.append(pool.submit(count, chunk) if ahead < AHEAD * others else count(chunk))
            while pending and not (isinstance(pending[0], Future) and not pending[0].done()):
                yield _outcome(pending.popleft())
        while pending:
            yield _outcome(pending.popleft())


def _keep_freed_memory() -> None:
    """Has the C library keep what the maps of an image take for those of the next.

    glibc gives large blocks back to the kernel, which clears every page of the next one; it stops that for blocks as
    large as the largest that it saw freed, up to 32 MB.  A third of the time of a process that only counts goes there.
    """
    np.empty(KEPT_MB * 2**20, np.uint8)


def _outcome(part: Future[_Outcome] | _Outcome) -> _Outcome:
    return part.result() if isinstance(part, Future) else part


def _count_chunk(tasks: list[_Task], num_categories: int) -> _Outcome:
    counts, check = PQCounts.zeros(num_categories), AreaCheck()
    for task in tasks:
        part, part_check = _count_image(task, num_categories)
        counts, check = counts + part, check + part_check
    return counts, check, len(tasks)


def _count_image(task: _Task, num_categories: int) -> tuple[PQCounts, AreaCheck]:
    source = f"{task.prediction_png} (image {task.image_id})"
    target_ids = read_panoptic_png(task.target_png)
    prediction_ids = read_panoptic_png(task.prediction_png)
    if target_ids.shape != prediction_ids.shape:
        raise DataError(
            f"{source}: (height, width) is {prediction_ids.shape}, that of the ground truth {task.target_png} is "
            f"{target_ids.shape}; predict at the size of the original image"
        )
    known = known_ids(task.target_rows)
    table = overlap_table(target_ids, prediction_ids, known, known_ids(task.prediction_rows), source)
    matches = match_segments(table, task.target_rows, task.prediction_rows, num_categories, source)
    counts = matches.counts(num_categories)
    pixels = dict(zip(known.tolist(), table.sum(axis=1).tolist(), strict=False))  # without the row of unlisted ids
    wrong = [row for row in task.target_rows if row.area != pixels[row.id]]
    if not wrong:
        return counts, AreaCheck()
    row = wrong[0]
    first = f"{task.target_png}, segment {row.id}: area {row.area:g} in the JSON, {pixels[row.id]} pixels in the PNG"
    return counts, AreaCheck(len(wrong), 1, first)


def _rows(entry: Entry, categories: Categories, file: Path, where: str, annotated: bool) -> list[SegmentRow]:
    rows = []
    for info in _read(entry, "segments_info", list, file, where):
        number = _read(info, "id", int, file, f"{where}, a segment")
        what = f"{where}, segment {number}"
        label = categories.label_of(_read(info, "category_id", int, file, what), f"{file}: {what}")
        area = _read(info, "area", int | float, file, what) if annotated else 0
        rows.append(SegmentRow(number, label, area, info.get("iscrowd", 0) == 1))
    return rows


def _folder(json_file: Path, folder: Path | None, what: str) -> Path:
    path = Path(str(json_file).removesuffix(".json") if folder is None else folder)
    if not path.is_dir():
        raise DataError(f"{path}: the folder with the PNGs of the {what} does not exist; name it with its option")
    return path


def _load(file: Path, *keys: str) -> dict[str, list[Entry]]:
    content = read_json(file)
    for key in keys:
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            found = sorted(content) if isinstance(content, dict) else type(content).__name__
            raise DataError(f"{file}: has no list '{key}' (found: {found}); a COCO panoptic JSON is needed here")
    return dict(content)


def _read(entry: Entry, key: str, kind: type | UnionType, file: Path, what: str) -> Any:
    """``entry[key]``, which must be of ``kind``; numbers must fit into 64 bits."""
    if not isinstance(entry, Mapping) or key not in entry:
        found = sorted(entry) if isinstance(entry, Mapping) else repr(entry)
        raise DataError(f"{file}: {what} lacks '{key}' (found: {found}); a COCO panoptic JSON is needed here")
    value = entry[key]
    good = isinstance(value, kind) and not isinstance(value, bool)
    if not good or (isinstance(value, int | float) and not abs(value) < 2**63):
        raise DataError(f"{file}: {what} has the {key} {value!r}; {_KINDS[kind]} is needed here")
    return value


def _by_image(annotations: list[Entry], file: Path) -> dict[int | str, Entry]:
    """The annotations by image; DataError for an image that is listed twice."""
    found: dict[int | str, Entry] = {}
    for entry in annotations:
        image_id = _read(entry, "image_id", int | str, file, "an annotation")
        if image_id in found:
            raise DataError(f"{file}: image {image_id} is listed twice in 'annotations'; keep one of them")
        found[image_id] = entry
    return found


def _check_exists(file: Path, what: str) -> None:
    if not file.exists():
        near = get_close_matches(file.name, [path.name for path in file.parent.glob("*.json")])
        hint = f"similar names there: {', '.join(near)}" if near else "no file there has a similar name"
        raise DataError(f"{file}: the JSON of the {what} does not exist; {hint}")


def _check_complete(
    wanted: Mapping[int | str, Entry], predicted: Mapping[int | str, Entry], gt_json: Path, file: Path
) -> None:
    if not wanted:
        raise DataError(f"{gt_json}: the data set holds no image; 'annotations' is empty")
    missing = [image_id for image_id in wanted if image_id not in predicted]
    if missing:
        some = ", ".join(map(str, missing[:5])) + (", ..." if len(missing) > 5 else "")
        raise DataError(
            f"{file}: no prediction for {len(missing)} of {len(wanted)} images (image_id {some}); predict every image "
            f"of {gt_json}"
        )


def _chunks(tasks: Iterator[_Task]) -> Iterator[list[_Task]]:
    chunk: list[_Task] = []
    for task in tasks:
        chunk.append(task)
        if len(chunk) == CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
