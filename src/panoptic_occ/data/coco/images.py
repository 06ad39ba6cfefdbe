"""Image files as RGB pixels of 8 bits, for the readers of data sets and for predict.

Nothing here imports torch, so that evaluation workers start fast.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

from panoptic_occ.common.errors import DataError
from panoptic_occ.common.files import check_regular, how_to_get, names_a_drive

if TYPE_CHECKING:
    from jaxtyping import UInt8

PHOTOGRAPHS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
"""What an image may be, by Pillow's names: others, such as PostScript, start programs."""
ENDINGS = (".jpg", ".jpeg", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")
"""What the names of such files end with."""
OTHER_ENDINGS = (
    ".avif", ".heic", ".heif", ".jp2", ".j2k", ".jxl", ".mpo", ".ppm", ".pgm", ".tga", ".psd", ".svg", ".eps", ".dng",
    ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2",
)  # fmt: skip
"""What the names of images of other kinds end with, which are not read."""
LOSSLESS = ("PNG",)
"""What a map of ids may be."""
_UNREADABLE = (OSError, SyntaxError, ValueError, OverflowError, struct.error, zlib.error)
"""What Pillow raises for a file that is damaged, or no image."""
_TURNS_BACK = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}  # fmt: skip
"""What undoes the turn of an EXIF orientation."""
_NO_RANGE = ("I", "F")
"""Modes without a largest value, so that no value stands for white."""


@contextmanager
def opened_image(path: Path, what: str, fix: str, formats: tuple[str, ...] = PHOTOGRAPHS) -> Iterator[Image.Image]:
    """An image of one of ``formats``, to be decoded in the block.

    DataError with ``what`` it is and the ``fix`` if it is missing, damaged, too large or of another format.
    """
    try:
        check_regular(path)
        with Image.open(path, formats=formats) as image:
            yield image
    except FileNotFoundError:
        if names_a_drive(path):
            raise DataError(
                f"{path}: the {what} does not exist: its name in the annotation is an absolute path of Windows; "
                "write names relative to the folder of the images"
            ) from None
        raise DataError(f"{path}: the {what} does not exist; {how_to_get(path, fix)}") from None
    except Image.DecompressionBombError:
        raise DataError(
            f"{path}: the {what} has more than {_max_pixels() // 10**6} million pixels, the most that is read; cut it "
            "into tiles, or make it smaller"
        ) from None
    except _UNREADABLE as error:
        if (other := _format(path)) not in (*formats, None):
            raise DataError(
                f"{path}: the {what} is a {other}; it must be lossless ({', '.join(formats)}), since JPEG and others "
                "change ids: write it again from the source, converting it does not bring them back"
            ) from None
        reason = "unknown format" if isinstance(error, UnidentifiedImageError) else error
        raise DataError(
            f"{path}: the {what} cannot be decoded ({reason}), it is damaged or not one of {', '.join(formats)}; "
            f"{how_to_get(path, fix)}"
        ) from None


def _max_pixels() -> int:
    """The largest image that Pillow opens; it warns of half of that."""
    return 2 * (Image.MAX_IMAGE_PIXELS or 0)


def _format(path: Path) -> str | None:
    """Which kind of photograph a file is."""
    try:
        check_regular(path)
        with Image.open(path, formats=PHOTOGRAPHS) as image:
            return image.format
    except (*_UNREADABLE, Image.DecompressionBombError):
        return None


def stored_size(image: Image.Image) -> tuple[int, int]:
    """(height, width) of the pixels as the file stores them, which Pillow says of all formats but TIFF."""
    if isinstance(image, TiffImageFile):
        return image.tag_v2[ExifTags.Base.ImageLength], image.tag_v2[ExifTags.Base.ImageWidth]
    return image.height, image.width


def _as_stored(image: Image.Image) -> Image.Image:
    """The pixels as the file stores them: a TIFF, which Pillow turns as it decodes it, is turned back."""
    value = image.getexif().get(ExifTags.Base.Orientation, 1) if isinstance(image, TiffImageFile) else 1
    image.load()
    return image.transpose(_TURNS_BACK[value]) if value in _TURNS_BACK else image


def read_rgb(path: Path, upright: bool = False) -> UInt8[np.ndarray, "h w 3"]:
    """The image as RGB: gray and CMYK are converted, of 16 bits the upper 8 are taken, as viewers do.

    ``upright``: turned as its EXIF says.  Raises DataError for a file that is missing or damaged, or whose mode has no
    range of values (I, F).
    """
    with opened_image(path, "image", f"fetch it again, into {path.parent}") as image:
        mode = image.mode
        if mode not in _NO_RANGE:
            turned = ImageOps.exif_transpose(image) if upright else _as_stored(image)
            if mode.startswith("I;16"):  # which Pillow would clip at 255
                return np.stack([(np.array(turned) >> 8).astype(np.uint8)] * 3, axis=-1)
            return np.array(turned if mode == "RGB" else turned.convert("RGB"))
    raise DataError(
        f"{path}: the image has mode {mode}, whose values have no range that could be shown; convert it to 8 bits"
    )
