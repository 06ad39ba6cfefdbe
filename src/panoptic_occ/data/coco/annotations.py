"""The two annotation files of a COCO panoptic split, parsed once and kept small.

A record per image is pickled into one shared byte buffer: COCO train2017 then costs a few hundred megabytes instead of
gigabytes of Python objects, forked workers share it without copies, and a record sent to a worker is all it needs.
"""

from __future__ import annotations

import gc
import logging
import pickle
from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Int

from panoptic_occ.common.errors import DataError
from panoptic_occ.data.coco.json_file import Annotation, CocoJson, SegmentRecord, name_in, whole_id
from panoptic_occ.data.coco.layout import Layout
from panoptic_occ.structures.categories import Categories

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ImageRecord:
    """Everything the annotation files say about one image.

    ``size`` is (height, width) of the panoptic JSON, ``instances_size`` that of the instances JSON (None: the image is
    not listed there).  ``annotations``: its non-crowd instances.
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

    ``image_ids`` (N,), ``sizes`` (N, 2) as (height, width) and ``instances`` (N,), the number of non-crowd instances of
    things.  ``renumbered``: the ids of the annotations were of no use, and are new ones.
    """

    categories: Categories
    records: PackedRecords
    image_ids: Int[np.ndarray, " n"]
    sizes: Int[np.ndarray, "n 2"]
    instances: Int[np.ndarray, " n"]
    skipped: Counter[str]
    renumbered: bool


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
def read_annotations(layout: Layout, with_instances: bool = True) -> SplitRecords:
    """Parses and joins the panoptic and the instances JSON of a split, images in the order of the panoptic JSON.

    Without the instances JSON there are no annotations, and every ``instances_size`` is None.  Raises DataError for a
    missing or broken file, missing keys, image ids that appear twice, images without a panoptic annotation, annotations
    of unknown images, category lists that contradict each other and an empty data set.
    """
    file = layout.panoptic_json
    panoptic = CocoJson(file, "panoptic", "images", "annotations", "categories")
    categories, images, maps = panoptic.categories(), panoptic.images(), panoptic.maps(whole_id)
    for image_id, entry in maps.items():
        if image_id not in images:
            raise DataError(
                f"{file}: the panoptic annotation '{entry.get('file_name')}' belongs to image {image_id}, which is not "
                f"in 'images' ({len(images)} entries); add the image or remove the annotation"
            )
    if missing := [image_id for image_id in images if image_id not in maps]:
        raise DataError(
            f"{file}: image {missing[0]} ('{images[missing[0]].get('file_name')}') has no panoptic annotation, nor "
            f"have {len(missing) - 1} other images; annotate them or remove them from 'images'"
        )
    if not maps:
        raise DataError(f"{file}: the data set holds no image; 'images' and 'annotations' are empty")
    instances = _read_instances(layout.instances_json, categories, images) if with_instances else _Instances()
    stuff = {category.id for category in categories.items if not category.isthing}
    counts = [sum(a.category_id not in stuff for a in instances.annotations.get(image_id, ())) for image_id in maps]
    sizes = [panoptic.size(images[image_id], f"image {image_id}") for image_id in maps]
    records = PackedRecords(
        ImageRecord(
            image_id,
            name_in(layout.images, panoptic.name(images[image_id], "file_name", f"image {image_id}")),
            name_in(layout.panoptic, panoptic.name(entry, "file_name", f"image {image_id}")),
            size,
            instances.sizes.get(image_id),
            panoptic.segments(entry, f"image {image_id}"),
            tuple(instances.annotations.pop(image_id, ())),
        )
        for (image_id, entry), size in zip(maps.items(), sizes, strict=True)
    )
    if of_stuff := instances.kept - sum(counts):
        instances.skipped["instances of stuff"] = of_stuff
    log.info("%s: %d images; left out: %s", file, len(records), dict(instances.skipped) or "nothing")
    return SplitRecords(
        categories,
        records,
        image_ids=np.array(list(maps)),
        sizes=np.array(sizes),
        instances=np.array(counts),
        skipped=instances.skipped,
        renumbered=instances.renumbered,
    )


@dataclass
class _Instances:
    """Sizes and non-crowd annotations by image id; counts of what is left out and of what is ``kept``."""

    sizes: dict[int, tuple[int, int]] = field(default_factory=dict)
    annotations: dict[int, list[Annotation]] = field(default_factory=lambda: defaultdict(list))
    skipped: Counter[str] = field(default_factory=Counter)
    kept: int = 0
    renumbered: bool = False


def _read_instances(file: Path, categories: Categories, image_ids: Container[int]) -> _Instances:
    """The instances of ``image_ids``."""
    if not file.exists():
        raise DataError(
            f"{file}: the file does not exist; check the folder it should be in, or read data of panoptic annotations "
            "alone with data.source.inst_gt=panoptic"
        )
    content = CocoJson(file, "instances", "images", "annotations", "categories")
    names = {c.id: c.name for c in categories.items}
    for entry in content.content["categories"]:
        number = content.number(entry, "id", "a category")
        name = content.name(entry, "name", f"category {number}")
        if names.get(number, name) != name:
            raise DataError(
                f"{file}: category {number} is called '{name}' here and '{names[number]}' in the panoptic JSON; both "
                "files must use one numbering"
            )
    sizes = {image_id: content.size(entry, f"image {image_id}") for image_id, entry in content.images().items()}
    instances = _Instances(sizes)
    for image_id, annotation in content.instances():
        instances.renumbered |= annotation.id != annotation.given_id
        if image_id not in sizes:
            raise DataError(
                f"{file}: annotation {annotation.given_id} belongs to image {image_id}, which is not in 'images' "
                f"({len(sizes)} entries); add the image or remove the annotation"
            )
        if image_id not in image_ids:
            instances.skipped["instances of images outside the panoptic JSON"] += 1
        elif annotation.iscrowd:
            instances.skipped["crowd instances"] += 1
        else:
            instances.annotations[image_id].append(annotation)
            instances.kept += 1
    return instances
