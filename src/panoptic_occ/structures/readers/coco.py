"""Detections in COCO's format of results, RLEs or polygons with scores, and the annotations of an instances JSON."""

from __future__ import annotations

import pickle
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import numpy as np
import torch

from panoptic_occ.common.errors import DataError, check_choice
from panoptic_occ.common.files import read_json
from panoptic_occ.common.scalars import truth_value, whole_number
from panoptic_occ.structures.masks import MaskCrops
from panoptic_occ.structures.readers.detections import Detections, detections_of, entry
from panoptic_occ.structures.readers.labels import DROPPED, ClassTable
from panoptic_occ.structures.segmentation import NoPolygonError, mask_rle, rle_crop

T = TypeVar("T")
ImageId = int | str
Json = str | Path | Mapping[str, Any] | Sequence[Mapping[str, Any]]
"""A file, or its content."""
Sizes = Mapping[ImageId, tuple[int, int]]
"""(height, width) of every image by its id."""
MissingRule = Literal["error", "empty"]
"""What images without a single result are: a mistake, or images in which nothing was detected."""
NOTHING = np.zeros((0, 0), dtype=bool)
"""The crop of a mask without a pixel."""
SHOWN = 5
"""Ids that an error lists."""


class CocoDetections(Mapping[ImageId, T], Generic[T]):
    """What ``make`` makes of the detections of an image, by its id; masks are drawn when an image is asked for."""

    def __init__(self, packed: Mapping[ImageId, bytes], sizes: Sizes, source: str, make: Callable[[Detections], T]):
        self.packed, self.sizes, self.source, self.make = packed, sizes, source, make

    def __len__(self) -> int:
        return len(self.sizes)

    def __iter__(self) -> Iterator[ImageId]:
        return iter(self.sizes)

    def __getitem__(self, image_id: ImageId) -> T:
        """KeyError for an image that is not listed; DataError for a mask that cannot be drawn in it."""
        size = self.sizes[image_id]
        rows = pickle.loads(self.packed[image_id]) if image_id in self.packed else []
        crops, corners, boxes = [], [], []
        for k, _, _, segmentation, box in rows:
            what = f"{self.source}: entry {k} of image {image_id}"
            try:
                rle = mask_rle(segmentation, size, box or ())
            except NoPolygonError:
                rle = None
            except (ValueError, TypeError, OverflowError) as error:
                raise DataError(f"{what}: the segmentation is malformed ({error}); write RLE or polygons") from None
            crop, corner = (NOTHING, (0, 0)) if rle is None else rle_crop(rle)
            crops.append(torch.from_numpy(crop))
            corners.append(corner)
            boxes.append(_corners(box, corner, crop.shape, what))
        masks = MaskCrops.from_crops(crops, corners, size)
        source = f"{self.source}: image {image_id}"
        return self.make(detections_of(masks, [row[2] for row in rows], [row[1] for row in rows], source, boxes))


def read_coco(
    results: Json,
    images: Json | Sizes | None,
    table: ClassTable,
    scores: float | None,
    missing: MissingRule,
    make: Callable[[Detections], T],
) -> CocoDetections[T]:
    """See ``InstanceSet.from_coco_results``.  Everything but the masks is checked here, before any is drawn."""
    check_choice("missing", missing, MissingRule)
    source, content = _content(results, "results")
    is_listing = isinstance(content, Mapping)
    entries = _list_in(content, "annotations", source) if is_listing else content
    if not isinstance(entries, Sequence) or isinstance(entries, str):
        raise DataError(f"{source}: is a {type(content).__name__}; a list of results or an instances JSON is meant")
    if images is None and not is_listing:
        raise DataError(f"{source}: results do not say how large images are; give images=, such as an instances JSON")
    sizes = _sizes(content if images is None else images, source)
    numbered = [(k, each) for k, each in enumerate(entries) if not _is_crowd(each, f"{source}: entry {k}")]
    ids = [_image_id(entry(each, "image_id", f"{source}: entry {k}")) for k, each in numbered]
    _check_images(ids, sizes, missing, source)
    categories = [_category_id(entry(each, "category_id", f"{source}: entry {k}"), source, k) for k, each in numbered]
    rows: dict[ImageId, list[tuple[Any, ...]]] = defaultdict(list)
    for (k, each), image_id, label in zip(numbered, ids, table.labels(categories, source, by_id=True), strict=True):
        what = f"{source}: entry {k} of image {image_id}"
        score = _score(each, what) if scores is None else scores
        if label != DROPPED:
            rows[image_id].append((k, label, score, entry(each, "segmentation", what), each.get("bbox")))
    packed = {image_id: pickle.dumps(of_one, pickle.HIGHEST_PROTOCOL) for image_id, of_one in rows.items()}
    return CocoDetections(packed, sizes, source, make)


def _content(source: Any, name: str) -> tuple[str, Any]:
    """What errors call a file or its content, and the content."""
    return (str(source), read_json(Path(source))) if isinstance(source, str | Path) else (name, source)


def _list_in(content: Any, key: str, source: str) -> Any:
    values = entry(content, key, source)
    if not isinstance(values, list | tuple):
        raise DataError(f"{source}: '{key}' is a {type(values).__name__}; a list is meant")
    return values


def _sizes(images: Any, source: str) -> Sizes:
    """Sizes by image id, out of a mapping, a JSON with a list ``images``, or its file."""
    name, content = _content(images, "images" if images is not None else source)
    if isinstance(content, Mapping) and "images" not in content and not isinstance(images, str | Path):
        return {_image_id(image_id): (int(height), int(width)) for image_id, (height, width) in content.items()}
    sizes: dict[ImageId, tuple[int, int]] = {}
    for k, image in enumerate(_list_in(content, "images", name)):
        what = f"{name}: images[{k}]"
        try:
            height, width = (whole_number(entry(image, key, what)) for key in ("height", "width"))
        except ValueError as error:
            raise error if isinstance(error, DataError) else DataError(f"{what}: {error}") from None
        sizes[_image_id(entry(image, "id", what))] = (height, width)
    return sizes


def _check_images(ids: Sequence[ImageId], sizes: Sizes, missing: MissingRule, source: str) -> None:
    """DataError for results of images that nobody listed, and for images without any."""
    if strange := [image_id for image_id in dict.fromkeys(ids) if image_id not in sizes]:
        raise DataError(
            f"{source}: holds results of {len(strange)} images that are not listed ({_some(strange)}); the list has "
            f"{len(sizes)} ({_some(list(sizes))}): give images= of the same split"
        )
    with_results = set(ids)
    if missing == "error" and (bare := [image_id for image_id in sizes if image_id not in with_results]):
        raise DataError(
            f"{source}: has no result for {len(bare)} of {len(sizes)} images ({_some(bare)}); missing='empty' takes "
            "them for images in which nothing was detected"
        )


def _some(ids: Sequence[ImageId]) -> str:
    return ", ".join(map(str, ids[:SHOWN])) + (", ..." if len(ids) > SHOWN else "")


def _plain(value: Any) -> Any:
    """Python's number for one of numpy."""
    return value.item() if isinstance(value, np.generic) else value


def _image_id(value: Any) -> ImageId:
    """A whole number where it is one, else a name."""
    try:
        return whole_number(_plain(value))
    except ValueError:
        return str(value)


def _category_id(value: Any, source: str, k: int) -> int:
    try:
        return whole_number(_plain(value))
    except ValueError as error:
        raise DataError(f"{source}: entry {k} has a category_id that is none: {error}") from None


def _is_crowd(annotation: Any, what: str) -> bool:
    """Crowds of an instances JSON are regions, no instances."""
    try:
        return isinstance(annotation, Mapping) and truth_value(annotation.get("iscrowd", 0))
    except ValueError as error:
        raise DataError(f"{what}: iscrowd is {error}") from None


def _score(result: Mapping[str, Any], what: str) -> float:
    score = _plain(result.get("score"))
    if not isinstance(score, int | float) or not 0 <= score <= 1:
        state = "has no score" if score is None else f"has the score {score!r}, which is no probability in [0, 1]"
        raise DataError(f"{what}: {state}; annotations have none: scores=1.0 gives all the same")
    return float(score)


def _corners(box: Any, corner: tuple[int, int], shape: Sequence[int], what: str) -> tuple[float, float, float, float]:
    """x0, y0, x1, y1 of a box x, y, width, height; without one, of the mask."""
    if box is None:
        (top, left), (rows, columns) = corner, shape
        return left, top, left + columns, top + rows
    try:
        x, y, width, height = map(float, box)
    except (TypeError, ValueError):
        raise DataError(f"{what}: the bbox is {box!r:.80}; x, y, width, height are meant") from None
    return x, y, x + width, y + height
