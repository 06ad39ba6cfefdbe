"""The masks of COCO's JSON: polygons and run-length encodings, checked before anything is drawn.

Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool
from pycocotools import mask as rle_tools

MIN_POLYGON = 6
"""Numbers of the smallest polygon that encloses anything (three corners)."""
MAX_COORDINATE = 1e6
"""Drawing a polygon takes time and memory that grow with its edges: far beyond this it never ends."""


class NoPolygonError(ValueError):
    """A segmentation whose polygons all have too few numbers to enclose anything."""


def mask_rle(segmentation: object, size: tuple[int, int], box: Sequence[float] = ()) -> dict[str, Any] | None:
    """Compressed RLE of a ``segmentation`` (polygons or RLE) in an image of ``size``; None without anything to draw.

    Corners may be pairs, ``[[x, y], ...]`` for ``[x, y, ...]``.  ``box``: of the annotation, which some files repeat in
    place of its outline.  ValueError says what is malformed.
    """
    if isinstance(segmentation, list):
        polygons = _polygons(segmentation, box)
        drawn: dict[str, Any] | None = rle_tools.merge(rle_tools.frPyObjects(polygons, *size)) if polygons else None
        return drawn
    if not isinstance(segmentation, dict):
        raise ValueError(f"it is {segmentation!r:.40}, neither a list of polygons nor an RLE")
    if missing := {"size", "counts"} - segmentation.keys():
        raise ValueError(f"the RLE lacks {', '.join(sorted(missing))}")
    if tuple(segmentation["size"]) != size:
        swapped = " (height and width are swapped)" if tuple(segmentation["size"]) == size[::-1] else ""
        raise ValueError(f"RLE of size {segmentation['size']} in an image of (height, width) {size}{swapped}")
    counts = segmentation["counts"]
    if isinstance(counts, list) and (negative := [run for run in counts if run < 0]):
        raise ValueError(f"the RLE holds a negative run: {negative[0]}")
    rle = segmentation if isinstance(counts, str | bytes) else rle_tools.frPyObjects(segmentation, *size)
    length = rle_length(rle["counts"])
    if length != size[0] * size[1]:
        # the decoder would leave the pixels after the last run uninitialised
        raise ValueError(f"RLE of {length} pixels in an image of {size[0] * size[1]}")
    return rle


def rle_crop(rle: dict[str, Any]) -> tuple[Bool[np.ndarray, "h w"], tuple[int, int]]:
    """The pixels of a mask inside its tight box, and the (top, left) corner of that; 0x0 px of an empty mask."""
    left, top, width, height = (int(value) for value in rle_tools.toBbox(rle))
    crop = rle_tools.decode(rle)[top : top + height, left : left + width]
    return np.ascontiguousarray(crop, dtype=bool), (top, left)


def _polygons(segmentation: list[Any], box: Sequence[float]) -> list[list[float]]:
    """The polygons that have enough numbers, each as x, y, x, y, ..."""
    if segmentation and all(isinstance(part, int | float) for part in segmentation):
        raise ValueError("it is one list of numbers; a list of polygons is needed, [[x, y, x, y, ...], ...]")
    if len(segmentation) >= MIN_POLYGON // 2 and all(_is_corner(part) for part in segmentation):
        segmentation = [segmentation]  # one polygon of pairs
    flat = [[number for corner in p for number in corner] if p and all(map(_is_corner, p)) else p for p in segmentation]
    # pycocotools takes four numbers for a box and refuses fewer: neither is a polygon
    polygons = [polygon for polygon in flat if len(polygon) >= MIN_POLYGON]
    if any(len(polygon) % 2 for polygon in polygons):
        raise ValueError("a polygon has an odd number of coordinates")
    if not all((np.abs(polygon) <= MAX_COORDINATE).all() for polygon in polygons):
        raise ValueError(f"a polygon has a coordinate that is not finite or beyond {MAX_COORDINATE:.0f}")
    if flat and not polygons:
        if len(box) == 4 and any(list(polygon) == list(box) for polygon in flat):
            raise ValueError(f"{flat[0]} is the box (x, y, width, height), not an outline; a box is no mask")
        lengths = ", ".join(str(len(polygon)) for polygon in flat[:5])
        raise NoPolygonError(
            f"polygons of {lengths} numbers enclose nothing; x1, y1, x2, y2, x3, y3, ... are needed ([x, y, width, "
            "height] is a box, no polygon)"
        )
    return polygons


def _is_corner(part: object) -> bool:
    return isinstance(part, list) and len(part) == 2 and all(isinstance(number, int | float) for number in part)


def rle_length(counts: str | bytes) -> int:
    """Number of pixels of a compressed RLE: 5 bits per character, low bits first, runs from the third stored as the
    difference to the run before the last."""
    chars = np.frombuffer(counts.encode() if isinstance(counts, str) else counts, dtype=np.uint8).astype(np.int64) - 48
    if not len(chars) or chars.min() < 0 or chars.max() > 63 or chars[-1] & 32:
        raise ValueError("the compressed RLE holds characters that do not belong there, or is cut off")
    first = np.flatnonzero(np.concatenate(([True], (chars[:-1] & 32) == 0)))
    place = np.arange(len(chars)) - np.repeat(first, np.diff(first, append=len(chars)))
    if place.max() > 6:
        raise ValueError("the compressed RLE holds a run that is too long")
    runs = np.add.reduceat((chars & 31) << (5 * place), first)
    last = np.append(first[1:], len(chars)) - 1
    runs -= np.where(chars[last] & 16, 1 << (5 * (place[last] + 1)), 0)
    runs[1::2] = np.cumsum(runs[1::2])
    runs[2::2] = np.cumsum(runs[2::2])
    if runs.min() < 0:
        raise ValueError("the compressed RLE holds a negative run")
    return int(runs.sum())
