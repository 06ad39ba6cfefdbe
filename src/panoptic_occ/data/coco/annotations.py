"""The two annotation files of a COCO panoptic split, parsed once and kept small.

A record per image is pickled into one shared byte buffer: COCO train2017 then costs a few hundred megabytes instead of
gigabytes of Python objects, forked workers share it without copies, and a record sent to a worker is all it needs.
"""

from __future__ import annotations

import gc
import logging
import pickle
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Int

from panoptic_occ.common.errors import DataError
from panoptic_occ.common.files import read_json
from panoptic_occ.data.coco.layout import Layout
from panoptic_occ.structures.categories import Categories

log = logging.getLogger(__name__)

T = TypeVar("T")
Entry = dict[str, Any]
Segmentation = list[list[float]] | dict[str, Any]
"""Polygons ``[[x, y, x, y, ...], ...]``, or RLE ``{"size": [h, w], "counts": list or compressed string}``."""

MAX_INT64 = 2**63 - 1
"""Ids beyond it are in no array."""


@dataclass(frozen=True)
class SegmentRecord:
    """One entry of ``segments_info``, as the panoptic JSON has it."""

    id: int
    category_id: int
    area: int
    iscrowd: bool


@dataclass(frozen=True)
class Annotation:
    """One non-crowd instance, as the instances JSON has it; ``bbox`` is x, y, width, height."""

    id: int
    category_id: int
    bbox: tuple[float, ...]
    segmentation: Segmentation


@dataclass(frozen=True)
class ImageRecord:
    """Everything the annotation files say about one image.

    ``size`` is (height, width) of the panoptic JSON, ``instances_size`` that of the instances JSON (None: the image is
    not listed there).
    """

    image_id: int
    file_name: str
    panoptic_name: str
    size: tuple[int, int]
    instances_size: tuple[int, int] | None
    segments: tuple[SegmentRecord, ...]
    annotations: tuple[Annotation, ...]


class PackedRecords:
    """A read-only sequence of records as one array of bytes: no reference counts, so forked workers never copy it."""

    def __init__(self, records: Iterable[ImageRecord]) -> None:
        buffer = bytearray()
        ends = [0]
        for record in records:
            buffer += pickle.dumps(record, protocol=pickle.HIGHEST_PROTOCOL)
            ends.append(len(buffer))
        self._bytes = np.frombuffer(buffer, dtype=np.uint8)
        self._ends = np.array(ends)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> ImageRecord:
        record: ImageRecord = pickle.loads(self._bytes[self._ends[index] : self._ends[index + 1]].tobytes())
        return record

    def __iter__(self) -> Iterator[ImageRecord]:
        return map(self.__getitem__, range(len(self)))


@dataclass(frozen=True)
class SplitRecords:
    """A parsed split of N images: its categories, its records, and how much of what was left out.

    ``image_ids`` (N,), ``sizes`` (N, 2) as (height, width) and ``instances`` (N,), the number of non-crowd instances.
    """

    categories: Categories
    records: PackedRecords
    image_ids: Int[np.ndarray, " n"]
    sizes: Int[np.ndarray, "n 2"]
    instances: Int[np.ndarray, " n"]
    skipped: Counter[str]


@contextmanager
def _without_gc() -> Iterator[None]:
    """Millions of new objects without a cycle among them: the search for cycles would take half of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@_without_gc()
def read_annotations(layout: Layout) -> SplitRecords:
    """Parses and joins the panoptic and the instances JSON of a split, images in the order of the panoptic JSON.

    Raises DataError for a missing or broken file, missing keys, ids that appear twice, images without a panoptic
    annotation, annotations of unknown images, category lists that contradict each other and an empty data set.
    """
    file = layout.panoptic_json
    panoptic = _lists(file)
    categories = Categories.from_json(panoptic["categories"], str(file))
    images = _images_by_id(panoptic["images"], file)
    annotation_of: dict[int, Entry] = {}
    for entry in panoptic["annotations"]:
        image_id = _read(entry, lambda e: int(e["image_id"]), "a panoptic annotation", file)
        if image_id in annotation_of:
            raise DataError(f"{file}: image {image_id} has two panoptic annotations; keep one of them")
        if image_id not in images:
            raise DataError(
                f"{file}: the panoptic annotation '{entry.get('file_name')}' belongs to image {image_id}, which is not "
                f"in 'images' ({len(images)} entries); add the image or remove the annotation"
            )
        annotation_of[image_id] = entry
    if missing := [image_id for image_id in images if image_id not in annotation_of]:
        raise DataError(
            f"{file}: image {missing[0]} ('{images[missing[0]].get('file_name')}') has no panoptic annotation, nor "
            f"have {len(missing) - 1} other images; annotate them or remove them from 'images'"
        )
    if not annotation_of:
        raise DataError(f"{file}: the data set holds no image; 'images' and 'annotations' are empty")
    sizes, instances, skipped = _read_instances(layout.instances_json, categories, images.keys())
    counts = [len(instances.get(image_id, ())) for image_id in annotation_of]
    records = PackedRecords(
        _image_record(entry, images[image_id], sizes.get(image_id), instances.pop(image_id, []), file)
        for image_id, entry in annotation_of.items()
    )
    log.info("%s: %d images; left out: %s", file, len(records), dict(skipped) or "nothing")
    shapes = np.array([(int(images[image_id]["height"]), int(images[image_id]["width"])) for image_id in annotation_of])
    return SplitRecords(categories, records, np.array(list(annotation_of)), shapes, np.array(counts), skipped)


def _read_instances(
    file: Path, categories: Categories, image_ids: Collection[int]
) -> tuple[dict[int, tuple[int, int]], dict[int, list[Annotation]], Counter[str]]:
    """Sizes and non-crowd annotations by image id, the latter of ``image_ids`` alone; counts of what is left out."""
    content = _lists(file)
    names = {c.id: c.name for c in categories.items}
    for entry in content["categories"]:
        number, name = _read(entry, lambda e: (int(e["id"]), str(e["name"])), "a category", file)
        if names.get(number, name) != name:
            raise DataError(
                f"{file}: category {number} is called '{name}' here and '{names[number]}' in the panoptic JSON; both "
                "files must use one numbering"
            )
    sizes = {
        image_id: _read(entry, lambda e: (int(e["height"]), int(e["width"])), f"image {image_id}", file)
        for image_id, entry in _images_by_id(content["images"], file).items()
    }
    annotations: dict[int, list[Annotation]] = defaultdict(list)
    skipped: Counter[str] = Counter()
    for entry in content["annotations"]:
        image_id = _read(entry, lambda e: int(e["image_id"]), "an annotation", file)
        if image_id not in sizes:
            raise DataError(
                f"{file}: annotation {entry.get('id')} belongs to image {image_id}, which is not in 'images' "
                f"({len(sizes)} entries); add the image or remove the annotation"
            )
        if image_id not in image_ids:
            skipped["instances of images outside the panoptic JSON"] += 1
        elif entry.get("iscrowd", 0):
            skipped["crowd instances"] += 1
        else:
            annotations[image_id].append(_read(entry, _annotation, "an annotation", file))
    return sizes, dict(annotations), skipped


def _annotation(entry: Entry) -> Annotation:
    bbox = tuple(float(value) for value in entry.get("bbox", ()))
    return Annotation(int(entry["id"]), int(entry["category_id"]), bbox, entry["segmentation"])


def _segment(entry: Entry) -> SegmentRecord:
    return SegmentRecord(int(entry["id"]), int(entry["category_id"]), int(entry["area"]), bool(entry.get("iscrowd", 0)))


def _image_record(
    panoptic: Entry, image: Entry, instances_size: tuple[int, int] | None, annotations: list[Annotation], file: Path
) -> ImageRecord:
    what = f"image {image['id']}"
    name, size = _read(image, lambda e: (str(e["file_name"]), (int(e["height"]), int(e["width"]))), what, file)
    panoptic_name, segments = _read(panoptic, lambda e: (str(e["file_name"]), list(e["segments_info"])), what, file)
    return ImageRecord(
        image_id=int(image["id"]),
        file_name=name,
        panoptic_name=panoptic_name,
        size=size,
        instances_size=instances_size,
        segments=tuple(_read(entry, _segment, f"a segment of {what}", file) for entry in segments),
        annotations=tuple(annotations),
    )


def _lists(file: Path) -> dict[str, list[Entry]]:
    """The lists that both kinds of annotation files have."""
    content = read_json(file)
    keys = ("images", "annotations", "categories")
    if not isinstance(content, dict):
        raise DataError(f"{file}: holds a {type(content).__name__}, not an object with {', '.join(keys)}")
    for key in keys:
        if not isinstance(content.get(key), list):
            raise DataError(f"{file}: has no list '{key}'; found {sorted(content)}, needed: {', '.join(keys)}")
    return content


def _images_by_id(entries: list[Entry], file: Path) -> dict[int, Entry]:
    images: dict[int, Entry] = {}
    for entry in entries:
        image_id = _read(entry, lambda e: int(e["id"]), "an image", file)
        if image_id in images:
            raise DataError(f"{file}: image id {image_id} appears twice; ids must be unique")
        if abs(image_id) > MAX_INT64:
            raise DataError(f"{file}: image id {image_id} does not fit into 64 bits; renumber the images")
        images[image_id] = entry
    return images


def _read(entry: Entry, build: Callable[[Entry], T], what: str, file: Path) -> T:
    """``build(entry)``, with a DataError that names the file and the entry when a key is missing or malformed."""
    try:
        return build(entry)
    except KeyError as error:
        raise DataError(f"{file}: {what} (id {entry.get('id')}) lacks the key {error}; found {sorted(entry)}") from None
    except (TypeError, ValueError, AttributeError, OverflowError) as error:
        raise DataError(f"{file}: {what} is malformed ({error}): {str(entry)[:200]}") from None
