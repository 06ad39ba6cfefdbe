"""The official COCO panoptic format: one PNG of segment ids per image (id = R + 256 G + 65536 B), one JSON per split.

Nothing here imports torch, so that evaluation workers start fast.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from panoptic_occ.common.errors import DataError
from panoptic_occ.common.files import atomic_path, parse_json, path_below, remove_leftovers, write_json
from panoptic_occ.data.coco.images import LOSSLESS, opened_image
from panoptic_occ.structures.categories import Categories

if TYPE_CHECKING:
    from jaxtyping import Int, Int32

    from panoptic_occ.structures.panoptic_map import PanopticMap, Segment

MAX_ID = 256**3 - 1
"""The largest segment id that three bytes hold."""

_RAW_MODES = {"RGB": "RGBX", "RGBA": "RGBA"}  # four bytes per pixel, so that a pixel is one uint32
_ANNOTATION_KEY = "panoptic_annotation"


def read_panoptic_png(path: Path) -> Int32[np.ndarray, "h w"]:
    """Segment ids of a panoptic PNG (0 = VOID), as a writable array.

    Raises DataError for a file that is missing, damaged or not an RGB(A) image of 8 bits.
    """
    fix = "fetch or write it again, and check the JSON's file_name"
    with opened_image(path, "panoptic PNG", fix, LOSSLESS) as image:
        mode, (width, height) = image.mode, image.size
        raw = image.tobytes("raw", _RAW_MODES[mode]) if mode in _RAW_MODES else b""
    if not raw:
        raise DataError(
            f"{path}: is an image of mode {mode}; a panoptic PNG has mode {' or '.join(_RAW_MODES)} and holds "
            "id = R + 256 G + 65536 B (a palette or gray image is not one: encode the ids as colours)"
        )
    pixels = np.frombuffer(raw, dtype="<u4").reshape(height, width)
    ids: np.ndarray = np.bitwise_and(pixels, MAX_ID).view(np.int32)
    return ids


def red_blue_swapped(segment_id: int) -> int:
    """The id that a pixel has if its red and its blue change places, as in a file that was written as BGR."""
    return (segment_id & 0xFF) << 16 | segment_id & 0xFF00 | segment_id >> 16


def write_panoptic_png(path: Path, ids: Int[np.ndarray, "h w"], text: dict[str, str] | None = None) -> None:
    """Writes segment ids as a panoptic PNG, atomically; ``text`` becomes text chunks of the file.

    Raises DataError for ids outside 0 .. ``MAX_ID`` and for a folder that cannot be written.
    """
    ids = np.asarray(ids)
    if ids.size and not 0 <= int(ids.min()) <= int(ids.max()) <= MAX_ID:
        raise DataError(
            f"{path}: segment ids lie in {int(ids.min())} .. {int(ids.max())}; three bytes hold 0 .. {MAX_ID}, "
            "renumber them"
        )
    info = PngInfo()
    for key, value in (text or {}).items():
        info.add_text(key, value)
    pixels = np.ascontiguousarray(ids, dtype="<u4").tobytes()  # R, G, B and 0
    image = Image.frombytes("RGB", ids.shape[::-1], pixels, "raw", "RGBX", 0, 1)
    with atomic_path(path) as temporary:
        image.save(temporary, format="PNG", pnginfo=info)


class PanopticResultWriter:
    """Writes predictions in the official result format: PNGs as they come, the JSON on ``close``.

    Every PNG carries its own entries of ``annotations`` and ``images`` in a text chunk (other tools skip it) and
    appears only when it is whole, so the folder is the only state:

    * memory does not grow with the number of images;
    * several processes share a folder: each writes its own images, then, after a barrier, one of them calls ``close``
      (an image written twice is simply replaced).

    ``close`` lists every prediction in ``folder``, hence one folder per result; ``clear`` begins a new one there.  As a
    context manager it closes itself unless an exception is on its way.

    >>> import tempfile, torch
    >>> from panoptic_occ import Categories, PanopticMap, Segment
    >>> categories = Categories.from_json([{"id": 101, "name": "sky", "isthing": 0}])
    >>> sky = PanopticMap(torch.tensor([[1, 1, 0]]), (Segment(1, label=0, isthing=False, area=2),))
    >>> folder = Path(tempfile.mkdtemp())
    >>> with PanopticResultWriter(folder / "panoptic", folder / "panoptic.json", categories) as writer:
    ...     writer.write(9, "9.jpg", sky)
    >>> read_panoptic_png(folder / "panoptic" / "9.png").tolist()
    [[1, 1, 0]]
    """

    def __init__(self, folder: Path, json_path: Path, categories: Categories) -> None:
        self.folder = Path(folder)
        self.json_path = Path(json_path)
        self.categories = categories

    def clear(self, file_names: Iterable[str]) -> None:
        """Removes an earlier result, to make room for one of the images with these names; for one process, before any
        of them writes.

        DataError for a file in the way of a new prediction that is none itself, and when two would get one name; then
        nothing is removed.
        """
        earlier, names = predictions_in(self.folder), Counter(map(map_name, file_names))
        if repeated := [name for name, count in names.items() if count > 1]:
            raise DataError(
                f"{self.folder / repeated[0]}: would be the prediction for {names[repeated[0]]} images; names must be "
                "unique, also without their endings: rename the images"
            )
        for path in (self.folder / name for name in names):
            if path.exists() and path not in earlier:
                raise _foreign(path)
        if earlier:
            self.json_path.unlink(missing_ok=True)  # first: no list is longer than its predictions
        for path in earlier:
            path.unlink(missing_ok=True)
        remove_leftovers(self.folder, "**/*")

    def write(self, image_id: int, file_name: str, panoptic: PanopticMap) -> None:
        """Writes the PNG of one image; ``file_name`` is the image's (or the PNG's) name, relative to its folder.

        Raises DataError when the name leads out of the folder or belongs to another image or to a file that is no map
        of ours, and as ``write_panoptic_png`` does.
        """
        name = map_name(file_name)
        path = path_below(self.folder, name, f"image {image_id}")
        other = _read_annotation(path) if path.exists() else {"image_id": image_id}
        if other is None:
            raise _foreign(path)
        if other["image_id"] != image_id:
            raise DataError(
                f"{path}: already holds the prediction for image {other['image_id']}, and image {image_id} "
                f"('{file_name}') has the same name; names must be unique, and every result needs its own folder"
            )
        height, width = panoptic.ids.shape
        annotation = {
            "image_id": int(image_id),
            "file_name": name,
            "segments_info": [self._segment_info(segment) for segment in panoptic.segments],
            "image": {"id": int(image_id), "file_name": file_name, "height": height, "width": width},
        }
        write_panoptic_png(path, panoptic.ids.cpu().numpy(), text={_ANNOTATION_KEY: json.dumps(annotation)})

    def close(self) -> None:
        """Writes the JSON over all predictions in the folder and their images, by image id; may be called again after
        more images."""
        annotations = sorted(predictions_in(self.folder).values(), key=lambda entry: entry["image_id"])
        images = [entry.pop("image") for entry in annotations]
        categories = self.categories.to_json()
        write_json(self.json_path, {"images": images, "annotations": annotations, "categories": categories})

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


def _foreign(path: Path) -> DataError:
    return DataError(
        f"{path}: is in the way of a prediction and is none that this writer made, so that it is not replaced; move it "
        "away"
    )


def map_name(file_name: str) -> str:
    """The name of the map of an image, relative to the folder of maps."""
    return Path(file_name).with_suffix(".png").as_posix() if Path(file_name).name else ""


def check_map_names(folder: Path, file_names: Mapping[int, str], source: Path) -> None:
    """DataError unless every image of ``source``, by id, can have a map of its own below ``folder``."""
    names: dict[str, int] = {}
    for image_id, file_name in file_names.items():
        path_below(folder, map_name(file_name), f"{source}: image {image_id}")
        if (other := names.setdefault(map_name(file_name), image_id)) != image_id:
            raise DataError(
                f"{source}: images {other} and {image_id} would get one map, {map_name(file_name)}; give their files "
                "different names"
            )


def predictions_in(folder: Path) -> dict[Path, dict[str, Any]]:
    """The ``annotations`` entries of all predictions in a folder by PNG, each with that of its ``image``; foreign PNGs
    are left out, as is what macOS puts beside files (``._name``)."""
    files = sorted(path for path in Path(folder).rglob("*.png") if not _is_of_macos(path))
    entries = ((path, _read_annotation(path)) for path in files)
    return {path: entry for path, entry in entries if entry is not None}


def _is_of_macos(path: Path) -> bool:
    """Whether a file holds what macOS keeps beside another one on foreign disks (AppleDouble)."""
    if not path.name.startswith("._") or not path.is_file():
        return False
    with open(path, "rb") as file:
        return file.read(4) == b"\0\5\x16\7"


def _read_annotation(path: Path) -> dict[str, Any] | None:
    """The ``annotations`` entry that a prediction carries, read without decoding pixels; None for a foreign PNG."""
    fix = "remove it and predict its image again"
    with opened_image(path, "prediction", fix) as image:
        text = image.info.get(_ANNOTATION_KEY)
    if text is None:
        return None
    try:
        entry = parse_json(text)
        if isinstance(entry["image_id"], int) and isinstance(entry["image"], dict):
            return dict(entry)
    except (KeyError, TypeError, ValueError):
        pass
    raise DataError(f"{path}: the prediction says nothing of its image that can be read, it is damaged; {fix}")
