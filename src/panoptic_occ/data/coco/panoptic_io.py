"""The official COCO panoptic format: one PNG of segment ids per image (id = R + 256 G + 65536 B), one JSON per split.

Nothing here imports torch, so that evaluation workers start fast.
"""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from panoptic_occ.common.errors import DataError
from panoptic_occ.common.files import atomic_path, write_json
from panoptic_occ.data.coco.images import UNREADABLE
from panoptic_occ.structures.categories import Categories

if TYPE_CHECKING:
    from jaxtyping import Int, Int32, UInt8

    from panoptic_occ.structures.panoptic_map import PanopticMap, Segment

MAX_ID = 256**3 - 1
"""The largest segment id that three bytes hold."""

_RAW_MODES = {"RGB": "RGBX", "RGBA": "RGBA"}  # four bytes per pixel, so that a pixel is one uint32
_ANNOTATION_KEY = "panoptic_annotation"


def ids_to_rgb(ids: Int[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 3"]:
    """Colours that encode segment ids; ValueError for ids outside 0 .. ``MAX_ID``."""
    return _packed(ids).view(np.uint8).reshape(*ids.shape, 4)[..., :3].copy()


def rgb_to_ids(rgb: UInt8[np.ndarray, "h w 3"]) -> Int32[np.ndarray, "h w"]:
    """Segment ids of the colours of a panoptic PNG."""
    red, green, blue = (rgb[..., k].astype(np.int32) for k in range(3))
    return red + 256 * green + 65536 * blue


def read_panoptic_png(path: Path, expected_size: tuple[int, int] | None = None) -> Int32[np.ndarray, "h w"]:
    """Segment ids of a panoptic PNG (0 = VOID), as a writable array.

    Raises DataError for a file that is missing, damaged, not an RGB(A) image of 8 bits or not of ``expected_size``
    (height, width).
    """
    try:
        with Image.open(path) as image:
            mode, (width, height) = image.mode, image.size
            raw = image.tobytes("raw", _RAW_MODES[mode]) if mode in _RAW_MODES else b""
    except FileNotFoundError:
        raise DataError(f"{path}: the panoptic PNG does not exist; check the folder and the JSON's file_name") from None
    except UNREADABLE as error:
        raise DataError(
            f"{path}: the panoptic PNG cannot be decoded ({error}); it is truncated or damaged, fetch or write it again"
        ) from None
    if not raw:
        raise DataError(
            f"{path}: is an image of mode {mode}; a panoptic PNG has mode {' or '.join(_RAW_MODES)} and holds "
            "id = R + 256 G + 65536 B (a palette or gray image is not one: encode the ids as colours)"
        )
    if expected_size is not None and (height, width) != tuple(expected_size):
        raise DataError(
            f"{path}: (height, width) is {(height, width)}, expected {tuple(expected_size)}; the PNG must be as "
            "large as its image"
        )
    pixels = np.frombuffer(raw, dtype="<u4").reshape(height, width)
    ids: np.ndarray = np.bitwise_and(pixels, MAX_ID).view(np.int32)
    return ids


def write_panoptic_png(path: Path, ids: Int[np.ndarray, "h w"], text: dict[str, str] | None = None) -> None:
    """Writes segment ids as a panoptic PNG, atomically; ``text`` becomes text chunks of the file.

    Raises DataError for ids outside 0 .. ``MAX_ID`` and for a folder that cannot be written.
    """
    try:
        packed = _packed(np.asarray(ids))
    except ValueError as error:
        raise DataError(f"{path}: {error}") from None
    height, width = packed.shape
    info = PngInfo()
    for key, value in (text or {}).items():
        info.add_text(key, value)
    image = Image.frombytes("RGB", (width, height), packed.tobytes(), "raw", "RGBX", 0, 1)
    with atomic_path(path) as temporary:
        image.save(temporary, format="PNG", pnginfo=info)


def _packed(ids: Int[np.ndarray, "h w"]) -> np.ndarray:
    """Ids as little-endian uint32: the bytes R, G, B and 0."""
    if ids.size and not 0 <= int(ids.min()) <= int(ids.max()) <= MAX_ID:
        raise ValueError(
            f"segment ids lie in {int(ids.min())} .. {int(ids.max())}; three bytes hold 0 .. {MAX_ID}, renumber them"
        )
    return np.ascontiguousarray(ids, dtype="<u4")


class PanopticResultWriter:
    """Writes predictions in the official result format: PNGs as they come, the JSON on ``close``.

    Every PNG carries its own ``annotations`` entry in a text chunk (other tools skip it) and appears only when it is
    whole, so the folder is the only state:

    * memory does not grow with the number of images;
    * several processes share a folder: each writes its own images, then, after a barrier, one of them calls ``close``
      (an image written twice is simply replaced).

    ``close`` lists every prediction found in ``folder``, hence one folder per result.  As a context manager it closes
    itself unless an exception is on its way.
    """

    def __init__(self, folder: Path, json_path: Path, categories: Categories) -> None:
        self.folder = Path(folder)
        self.json_path = Path(json_path)
        self.categories = categories

    def write(self, image_id: int, file_name: str, panoptic: PanopticMap) -> None:
        """Writes the PNG of one image; ``file_name`` is the image's (or the PNG's) name, relative to its folder.

        Raises DataError when the name already belongs to another image, and as ``write_panoptic_png`` does.
        """
        name = _png_name(file_name)
        path = self.folder / name
        if path.exists() and (other := _read_annotation(path)) is not None and other["image_id"] != image_id:
            raise DataError(
                f"{path}: already holds the prediction for image {other['image_id']}, and image {image_id} "
                f"('{file_name}') has the same name; names must be unique, and every result needs its own folder"
            )
        annotation = {
            "image_id": int(image_id),
            "file_name": name,
            "segments_info": [self._segment_info(segment) for segment in panoptic.segments],
        }
        write_panoptic_png(path, panoptic.ids.cpu().numpy(), text={_ANNOTATION_KEY: json.dumps(annotation)})

    def close(self) -> None:
        """Writes the JSON over all predictions in the folder, by image id; may be called again after more images."""
        annotations = sorted(predictions_in(self.folder).values(), key=lambda entry: entry["image_id"])
        write_json(self.json_path, {"annotations": annotations, "categories": self.categories.to_json()})

    def __enter__(self) -> PanopticResultWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()

    def _segment_info(self, segment: Segment) -> dict[str, Any]:
        # plain Python numbers: tensors and numpy scalars are not JSON
        info: dict[str, Any] = {
            "id": int(segment.id),
            "category_id": self.categories[segment.label].id,
            "isthing": bool(segment.isthing),
            "area": int(segment.area),
            "iscrowd": int(segment.iscrowd),
        }
        return info if segment.score is None else info | {"score": float(segment.score)}


def predictions_in(folder: Path) -> dict[Path, dict[str, Any]]:
    """The ``annotations`` entries of all predictions in a folder, by PNG; foreign PNGs are left out."""
    found = {path: _read_annotation(path) for path in sorted(Path(folder).rglob("*.png"))}
    return {path: entry for path, entry in found.items() if entry is not None}


def _png_name(file_name: str) -> str:
    return PurePosixPath(Path(file_name).as_posix()).with_suffix(".png").as_posix()


def _read_annotation(path: Path) -> dict[str, Any] | None:
    """The ``annotations`` entry that a prediction carries, read without decoding pixels; None for a foreign PNG."""
    try:
        with Image.open(path) as image:
            text = image.info.get(_ANNOTATION_KEY)
    except (OSError, SyntaxError) as error:
        raise DataError(f"{path}: not a readable PNG ({error}); remove it and predict its image again") from None
    return None if text is None else dict(json.loads(text))
