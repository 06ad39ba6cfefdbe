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
from PIL import Image, ImageOps

from panoptic_occ.common.errors import DataError

if TYPE_CHECKING:
    from jaxtyping import UInt8

_UNREADABLE = (OSError, SyntaxError, ValueError, struct.error, zlib.error, Image.DecompressionBombError)
"""What Pillow raises for a file that is damaged, or no image."""
_NO_RANGE = ("I", "F")
"""Modes without a largest value, so that no value stands for white."""


@contextmanager
def opened_image(path: Path, what: str, fix: str) -> Iterator[Image.Image]:
    """An image to be decoded in the block; DataError with ``what`` it is and the ``fix`` if missing or damaged."""
    try:
        with Image.open(path) as image:
            yield image
    except FileNotFoundError:
        raise DataError(f"{path}: the {what} does not exist; {fix}") from None
    except _UNREADABLE as error:
        raise DataError(f"{path}: the {what} cannot be decoded ({error}), it is damaged or no image; {fix}") from None


def read_rgb(path: Path, upright: bool = False) -> UInt8[np.ndarray, "h w 3"]:
    """The image as RGB: gray and CMYK are converted, of 16 bits the upper 8 are taken, as viewers do.

    ``upright``: turned as its EXIF says.  Raises DataError for a file that is missing or damaged, or whose mode has no
    range of values (I, F).
    """
    with opened_image(path, "image", f"fetch it again, into {path.parent}") as image:
        mode = image.mode
        if mode not in _NO_RANGE:
            turned = ImageOps.exif_transpose(image) if upright else image
            if mode.startswith("I;16"):  # which Pillow would clip at 255
                return np.stack([(np.array(turned) >> 8).astype(np.uint8)] * 3, axis=-1)
            return np.array(turned if mode == "RGB" else turned.convert("RGB"))
    raise DataError(
        f"{path}: the image has mode {mode}, whose values have no range that could be shown; convert it to 8 bits"
    )
