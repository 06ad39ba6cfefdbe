"""Reads one image with its annotations and says exactly what is wrong with it.

Every function returns what it could read beside a list of problems, so that loading (which stops at the first fatal
one) and the data doctor (which lists all) share one set of checks and one set of messages.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int
from pycocotools import mask as rle_tools
from torch import Tensor

from panoptic_occ.common.errors import DataError
from panoptic_occ.data.coco.annotations import ImageRecord
from panoptic_occ.data.coco.images import read_rgb
from panoptic_occ.data.coco.layout import Layout
from panoptic_occ.data.coco.orientation import TURNS, fitting
from panoptic_occ.data.coco.panoptic_io import MAX_ID, read_panoptic_png, red_blue_swapped
from panoptic_occ.ops.segment_runs import unique_counts
from panoptic_occ.structures.categories import Categories
from panoptic_occ.structures.masks import MaskCrops
from panoptic_occ.structures.panoptic_map import PanopticMap, Segment
from panoptic_occ.structures.segmentation import NoPolygonError, mask_rle, rle_crop

MANY_IDS = 10
"""More ids of an image that are not listed are one problem: the map was resized, or is none."""


@dataclass(frozen=True)
class Problem:
    """One fault of a data set: which file, image (None: the whole split) and id (None: the image itself; else as the
    file has it), what is wrong, and the fix.

    A fatal problem stops loading.  The others are counted and tolerated: ``wrong area`` (the JSON's area is trusted, as
    the official metric does), ``degenerate mask``, ``malformed polygon`` and ``instance of stuff`` (it is left out),
    ``box outside the image`` (boxes come from the masks, which are clipped).
    """

    kind: str
    file: str
    image_id: int | None
    id: object
    problem: str
    fix: str
    fatal: bool = True

    def __str__(self) -> str:
        return f"{self.place}: {self.problem}" + (f"; {self.fix}" if self.fix else "")

    @property
    def place(self) -> str:
        """File, image and id."""
        image = "" if self.image_id is None else f": image {self.image_id}"
        return f"{self.file}{image}" + ("" if self.id is None else f", id {self.id}")


@dataclass(frozen=True, eq=False)
class Instances:
    """The usable non-crowd instances of an image: masks, contiguous labels (K,) and dataset ids (K,)."""

    masks: MaskCrops
    labels: Int[Tensor, " k"]
    ids: Int[Tensor, " k"]


class _Problems(list[Problem]):
    """The problems of one image, most of them of one ``file``."""

    def __init__(self, record: ImageRecord, file: Path) -> None:
        self.record, self.file = record, file

    def report(
        self, kind: str, number: object, problem: str, fix: str, *, fatal: bool = True, file: Path | None = None
    ) -> None:
        self.append(Problem(kind, str(file or self.file), self.record.image_id, number, problem, fix, fatal))

    def report_size(self, size: tuple[int, ...], layout: Layout) -> None:
        problem = f"(height, width) is {tuple(size)}, but {self.record.size} in {layout.panoptic_json.name}"
        fix = "image, PNG and both annotation files must agree"
        value, ways = fitting(self.file, self.record.size)
        if value != 1 and ways:
            problem += f"; its EXIF orientation is {value} ({TURNS[value]})"
            fix = f"set data.source.orientation={ways[0]}, by which the annotation fits"
        elif tuple(size) == self.record.size[::-1]:
            problem += "; width and height are swapped"
        self.report("size mismatch", None, problem, fix)


def read_image(record: ImageRecord, layout: Layout) -> tuple[Int[Tensor, "3 h w"] | None, list[Problem]]:
    """The image as uint8 RGB (see ``read_rgb``), not contiguous; None when it is unreadable or of another size."""
    read = partial(read_rgb, upright=layout.orientation == "exif")
    pixels, problems = _decoded(layout.images / record.file_name, read, record, layout)
    # a view: pixel by pixel, as it was decoded, an image is resized three times as fast
    return None if pixels is None else torch.from_numpy(pixels).permute(2, 0, 1), problems


def read_panoptic(
    record: ImageRecord, layout: Layout, categories: Categories
) -> tuple[PanopticMap | None, list[Problem]]:
    """The panoptic map with its segments (areas as in the JSON); None when the PNG is unreadable or of another size."""
    ids, problems = _decoded(layout.panoptic / record.panoptic_name, read_panoptic_png, record, layout)
    if ids is None:
        return None, problems
    values, counts = unique_counts(ids)
    segments, problems = _segments(record, layout, categories, dict(zip(values.tolist(), counts.tolist(), strict=True)))
    return PanopticMap(torch.from_numpy(ids), segments), problems


def _decoded(
    path: Path, read: Callable[[Path], np.ndarray], record: ImageRecord, layout: Layout
) -> tuple[np.ndarray | None, _Problems]:
    """The pixels of a file, or None and the problem when it is unreadable or not of the size of its image."""
    problems = _Problems(record, path)
    try:
        pixels = read(path)
    except DataError as error:
        problem, _, fix = str(error).removeprefix(f"{path}: ").partition("; ")
        problems.report("unreadable file", None, problem, fix)
        return None, problems
    if pixels.shape[:2] == record.size:
        return pixels, problems
    problems.report_size(pixels.shape[:2], layout)
    return None, problems


def _segments(
    record: ImageRecord, layout: Layout, categories: Categories, pixels: dict[int, int]
) -> tuple[tuple[Segment, ...], _Problems]:
    """The segments of the JSON, compared with ``pixels``: how many pixels every id has in the PNG."""
    file, png = layout.panoptic_json, layout.panoptic / record.panoptic_name
    segments: dict[int, Segment] = {}
    problems = _Problems(record, file)
    for entry in record.segments:
        label = _label(categories, entry.category_id)
        if isinstance(label, str):
            problems.report("unknown category", entry.id, label, "correct the category_id")
            continue
        if entry.id in segments:
            fix = "give every segment of an image its own id"
            problems.report("repeated id", entry.id, "two segments have this id", fix)
            continue
        segments[entry.id] = Segment(entry.id, label, categories[label].isthing, int(entry.area), entry.iscrowd)
        if not 0 < entry.id <= MAX_ID:
            text = f"a segment id must lie in 1 .. {MAX_ID} (0 is VOID)"
            problems.report("bad id", entry.id, text, "renumber the segment")
        elif entry.id not in pixels:
            text = f"the segment has no pixel in {png.name}; ids in the PNG: {_some(pixels)}"
            problems.report("id not in PNG", entry.id, text, "remove the segment or paint it")
        elif int(entry.area) != pixels[entry.id]:
            text = f"area {entry.area} in the JSON, {pixels[entry.id]} pixels in {png.name}; the JSON is trusted"
            problems.report("wrong area", entry.id, text, "recompute the areas", fatal=False)
    ids = {entry.id for entry in record.segments}
    unlisted = pixels.keys() - ids - {0}
    if unlisted and _swapped(pixels.keys() - {0}, ids):
        text = "the ids of the JSON are in the PNG with red and blue swapped: it is in BGR order"
        fix = "write it in the order of RGB, id = R + 256 G + 65536 B (OpenCV's imwrite takes BGR)"
        swapped = _Problems(record, png)
        swapped.report("BGR map", None, text, fix)
        return tuple(segments.values()), swapped
    for number in sorted(unlisted)[:MANY_IDS]:
        text = f"{pixels[number]} pixels have an id that segments_info does not list; listed: {_some(ids)}"
        if len(unlisted) > MANY_IDS:
            text = f"{len(unlisted)} ids, of {sum(map(pixels.__getitem__, unlisted))} pixels, are not listed; {text}"
        fix = f"add the segment to {file.name} or paint it 0 (VOID)"
        problems.report("id not in JSON", number, text, fix, file=png)
        if len(unlisted) > MANY_IDS:
            break
    return tuple(segments.values()), problems


def _swapped(present: set[int], listed: set[int]) -> bool:
    """Whether the ids ``present`` in a PNG are those ``listed``, or most of them, only with red and blue swapped."""
    swapped = set(map(red_blue_swapped, present))
    matching = len(swapped & listed)
    mostly = 2 * matching > max(len(swapped), len(listed)) and 2 * len(present & listed) <= matching
    return mostly or swapped == listed


def read_instances(record: ImageRecord, layout: Layout, categories: Categories) -> tuple[Instances, list[Problem]]:
    """Masks, labels and ids of the non-crowd instances; every degenerate mask is left out and becomes a problem."""
    problems = _Problems(record, layout.instances_json)
    if record.instances_size is None:
        text = "the image is in the panoptic JSON but not in the instances JSON"
        problems.report("missing image", None, text, "list the image there, also when it has no instance")
    elif record.instances_size != record.size:
        problems.report_size(record.instances_size, layout)
    crops, corners, labels, ids = [], [], [], []
    for entry in record.annotations:
        given = entry.given_id
        label = _label(categories, entry.category_id)
        if isinstance(label, str):
            problems.report("unknown category", given, label, "correct the category_id")
            continue
        if not categories[label].isthing:
            text = f"category_id {entry.category_id} ('{categories[label].name}') is stuff; the instance is left out"
            fix = "remove it from the instances JSON (panopticapi's panoptic2detection: --things_only)"
            problems.report("instance of stuff", given, text, fix, fatal=False)
            continue
        if _leaves_image(entry.bbox, record.size):
            text = f"the box (x, y, width, height) {list(entry.bbox)} leaves the image of (height, width) {record.size}"
            problems.report("box outside the image", given, text, "clip it", fatal=False)
        try:
            rle = mask_rle(entry.segmentation, record.size, entry.bbox)
        except NoPolygonError as error:
            text = f"the segmentation is no polygon ({error}); the instance is skipped"
            problems.report("malformed polygon", given, text, "write polygons or RLE", fatal=False)
            continue
        except (ValueError, TypeError, OverflowError) as error:
            text, fix = f"the segmentation is malformed ({error})", "write polygons or RLE of the image's size"
            problems.report("bad segmentation", given, text, fix)
            continue
        unusable = _why_unusable(entry.segmentation, record.size, 0 if rle is None else int(rle_tools.area(rle)))
        if rle is None or unusable is not None:
            text, fix = unusable or ("the mask covers no pixel", "redraw or remove it")
            problems.report("degenerate mask", given, f"{text}; the instance is skipped", fix, fatal=False)
            continue
        crop, corner = rle_crop(rle)
        crops.append(torch.from_numpy(crop))
        corners.append(corner)
        labels.append(label)
        ids.append(entry.id)
    masks = MaskCrops.from_crops(crops, corners, record.size)
    return Instances(masks, torch.tensor(labels, dtype=torch.int64), torch.tensor(ids, dtype=torch.int64)), problems


def _why_unusable(segmentation: object, size: tuple[int, int], pixels: int) -> tuple[str, str] | None:
    """What is wrong with a segmentation that covers so few ``pixels`` of an image of (height, width), and the fix."""
    if pixels > 1:
        return None
    polygons = segmentation if isinstance(segmentation, list) else []
    numbers = [number for polygon in polygons if len(polygon) % 2 == 0 for number in np.ravel(polygon)]
    corners = np.array(numbers, dtype=float).reshape(-1, 2)  # x, y
    if len(corners) and corners.min() >= 0 and corners.max() <= 1 and (corners % 1).any():
        return "coordinates lie in 0..1: they look normalised", "multiply by width and height"
    if pixels:
        return None
    if len(corners) and ((corners.max(axis=0) < 0) | (corners.min(axis=0) >= size[::-1])).any():
        text = f"all coordinates lie outside the image of (height, width) {size}"
        return text, "compare the sizes of image and annotation, and whether x and y are swapped"
    return "the mask covers no pixel", "redraw or remove it"


def _leaves_image(box: tuple[float, ...], size: tuple[int, int]) -> bool:
    """Whether a JSON box leaves the image by more than the pixel that rounding explains."""
    if len(box) != 4:
        return False
    x, y, width, height = box
    return not (min(x, y) >= -1 and x + width <= size[1] + 1 and y + height <= size[0] + 1)


def _label(categories: Categories, category_id: int) -> int | str:
    """The contiguous label, or what is wrong with the id."""
    try:
        return categories.label_of(category_id, "")
    except DataError as error:
        return str(error).removeprefix(": ")


def _some(ids: Iterable[int], limit: int = 10) -> str:
    ids = sorted(ids)
    return ", ".join(map(str, ids[:limit])) + (f" and {len(ids) - limit} more" if len(ids) > limit else "")
