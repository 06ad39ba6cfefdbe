"""EXIF orientations: whether an image is read as its pixels are stored or turned as viewers show it, and what fits.

COCO is annotated on stored pixels; other tools annotate what a viewer shows.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from PIL import ExifTags

from panoptic_occ.common.errors import DataError
from panoptic_occ.data.coco.images import opened_image, stored_size

Orientation = Literal["pixels", "exif"]
"""How images are read: ``pixels`` as they are stored, ``exif`` turned upright as their EXIF says."""

TURNS = {
    2: "mirrored", 3: "turned by 180 degrees", 4: "mirrored upside down", 5: "mirrored and turned by 90 degrees",
    6: "turned by 90 degrees", 7: "mirrored and turned by 270 degrees", 8: "turned by 270 degrees",
}  # fmt: skip
"""What viewers do with the stored pixels, by the value of the EXIF tag; 1 and all other values mean nothing."""
_SWAPS_SIDES = 5


def exif_orientation(path: Path) -> tuple[int, tuple[int, int]]:
    """The EXIF orientation (1: none) and the (height, width) of the stored pixels; (1, (0, 0)) if it is unreadable."""
    try:
        with opened_image(path, "image", "") as image:
            value = image.getexif().get(ExifTags.Base.Orientation, 1)
            return (value if value in TURNS else 1), stored_size(image)
    except DataError:
        return 1, (0, 0)


def fitting(path: Path, size: tuple[int, int]) -> tuple[int, list[Orientation]]:
    """The EXIF orientation of an image, and the ways to read it that give it the (height, width) of its annotation."""
    value, stored = exif_orientation(path)
    turned = stored[::-1] if value >= _SWAPS_SIDES else stored
    shapes: dict[Orientation, tuple[int, int]] = {"pixels": stored, "exif": turned}
    return value, [way for way, shape in shapes.items() if shape == size]
