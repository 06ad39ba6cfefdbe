"""The objects of an image: ``*_gtFine_polygons.json``, full outlines from back to front."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64, UInt8
from PIL import Image, ImageDraw

from panoptic_occ.common.errors import DataError, did_you_mean
from panoptic_occ.common.files import read_json
from panoptic_occ.common.scalars import truth_value
from panoptic_occ.data.cityscapes.labels import IDS, NOT_PAINTED, THINGS, label_of
from panoptic_occ.structures.segmentation import MAX_COORDINATE

Size = tuple[int, int]


@dataclass(frozen=True)
class Outline:
    """One object: label id, whether it is a group, and the corners (x, y) in pixels, which may leave the image."""

    label: int
    group: bool
    points: tuple[tuple[float, float], ...]

    @property
    def isthing(self) -> bool:
        """Whether it belongs to one of the eight thing classes."""
        return self.label in THINGS


def read_outlines(path: Path) -> tuple[Size, list[Outline]]:
    """(height, width) and the objects in the order of the file: a later one lies in front of the earlier ones.

    Deleted objects and licence plates, which nobody paints, are left out.  Raises DataError for a missing or broken
    file, a missing key, an unknown label and corners that are no numbers.
    """
    content = read_json(path)
    try:
        size = int(content["imgHeight"]), int(content["imgWidth"])
        objects = [_outline(entry, k, path) for k, entry in enumerate(content["objects"])]
    except DataError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise DataError(
            f"{path}: malformed ({type(error).__name__}: {error}); needed: imgHeight, imgWidth and objects, each with "
            "label and polygon [[x, y], ...]; unpack gtFine_trainvaltest.zip again"
        ) from None
    return size, [outline for outline in objects if outline is not None]


def _outline(entry: dict[str, Any], k: int, path: Path) -> Outline | None:
    if truth_value(entry.get("deleted", 0)):
        return None
    name = str(entry["label"])
    label = label_of(name)
    if label is None:
        allowed = did_you_mean(name, IDS)
        raise DataError(f"{path}: object {k} has the label '{name}'; correct it: {allowed}, and things with 'group'")
    points = tuple((float(x), float(y)) for x, y in entry["polygon"])
    if len(points) < 2 or not all(abs(part) <= MAX_COORDINATE for point in points for part in point):
        raise DataError(
            f"{path}: object {k} ('{name}') has the polygon {str(entry['polygon'])[:80]}; at least two corners [x, y] "
            f"with finite coordinates of at most {MAX_COORDINATE:.0f} are needed: redraw or remove the object"
        )
    return None if label[0] == NOT_PAINTED else Outline(*label, points)


def full_mask(outline: Outline, size: Size) -> UInt8[np.ndarray, "h w"]:
    """The whole object, hidden parts too: 1 inside and on the outline, column by column in memory."""
    canvas = Image.new("L", size[::-1])
    ImageDraw.Draw(canvas).polygon(outline.points, fill=1)
    return np.asarray(canvas.transpose(Image.Transpose.TRANSPOSE)).T


def visible_pixels(outlines: list[Outline], size: Size) -> Int64[np.ndarray, " n"]:
    """Pixels of every object that no later one hides, (N,)."""
    canvas = Image.new("I", size[::-1])
    draw = ImageDraw.Draw(canvas)
    for k, outline in enumerate(outlines, start=1):
        draw.polygon(outline.points, fill=k)
    return np.bincount(np.asarray(canvas).reshape(-1), minlength=len(outlines) + 1)[1:]
