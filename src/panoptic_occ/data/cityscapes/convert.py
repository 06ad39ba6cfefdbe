"""One image of Cityscapes in the COCO panoptic layout: the panoptic map, its segments and the full masks of things.

The map is ``*_gtFine_instanceIds.png``, from which the official scripts make the truth of panoptic quality; painting
the polygons again would move outlines by a pixel, because Pillow's polygons have changed since.  The masks are the
polygons, which go on behind what hides them.  A mask finds its segment as on COCO, by the covered share: the numbers in
the PNG have gaps, so that nobody can count polygons to them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int32
from scipy.ndimage import find_objects

from panoptic_occ.common.errors import DataError
from panoptic_occ.data.cityscapes.labels import CATEGORIES, COUNTED, IDS, THINGS
from panoptic_occ.data.cityscapes.polygons import Size, full_mask, read_outlines, visible_pixels
from panoptic_occ.data.coco.images import LOSSLESS, opened_image
from panoptic_occ.data.coco.layout import Layout
from panoptic_occ.data.coco.panoptic_io import write_panoptic_png
from panoptic_occ.data.coco.writer import Part, mask_entry
from panoptic_occ.ops.segment_runs import unique_ids

CLASSES = {c.id for c in CATEGORIES.items}


@dataclass(frozen=True)
class Files:
    """The files of one image: the picture, its objects, and what is visible at every pixel.

    ``stem`` is like ``aachen/aachen_000000_000019``.
    """

    stem: str
    image: Path
    polygons: Path
    instance_ids: Path

    @staticmethod
    def of(root: Path, split: str, stem: str) -> Files:
        """The files below ``root``, as Cityscapes distributes them."""
        fine = f"gtFine/{split}/{stem}_gtFine"
        picture = root / f"leftImg8bit/{split}/{stem}_leftImg8bit.png"
        return Files(stem, picture, root / f"{fine}_polygons.json", root / f"{fine}_instanceIds.png")


def convert(files: Files, target: Layout, number: int) -> Part:
    """Writes the panoptic PNG of image ``number`` and returns its annotations.

    A thing that others hide altogether is no instance; a group is a crowd.  Raises DataError for a file that is
    missing or broken and for sizes that differ.
    """
    size, outlines = read_outlines(files.polygons)
    ids = read_instance_ids(files.instance_ids)
    for path, actual in ((files.image, _image_size(files.image)), (files.instance_ids, ids.shape)):
        if actual != size:
            raise DataError(
                f"{path}: (height, width) is {tuple(actual)}, but {size} in {files.polygons.name}; image, PNG and "
                "polygons must agree: unpack the archives of Cityscapes again"
            )
    segments = _segments(ids, files.instance_ids)
    ids[~np.isin(ids, [segment["id"] for segment in segments])] = 0
    name = f"{files.stem}_gtFine_panoptic.png"
    write_panoptic_png(target.panoptic / name, ids)
    instances = [
        {"image_id": number, "category_id": o.label, "iscrowd": int(o.group), **mask_entry(full_mask(o, size))}
        for o, visible in zip(outlines, visible_pixels(outlines, size), strict=True)
        if o.isthing and visible
    ]
    picture = f"{files.stem}_leftImg8bit.png"
    return {
        "image": {"id": number, "file_name": picture, "height": size[0], "width": size[1]},
        "instances": instances,
        "panoptic": {"image_id": number, "file_name": name, "segments_info": segments},
    }


def read_instance_ids(path: Path) -> Int32[np.ndarray, "h w"]:
    """The label of every pixel, of counted things 1000 x label + number; DataError for a file that is none of these."""
    with opened_image(path, "PNG of instance ids", "unpack gtFine_trainvaltest.zip again", LOSSLESS) as image:
        mode = image.mode
        if mode.startswith("I"):
            return np.array(image, dtype=np.int32)
    raise DataError(
        f"{path}: is an image of mode {mode}; instance ids are gray values of 16 bits (mode I or I;16), as "
        "gtFine_trainvaltest.zip has them"
    )


def _segments(ids: Int32[np.ndarray, "h w"], path: Path) -> list[dict[str, Any]]:
    """The segments of the 19 classes; what a group covers is one crowd per class."""
    values, index, areas = unique_ids(ids)
    segments = []
    windows = find_objects(index + 1)
    for value, area, (rows, columns) in zip(values.tolist(), areas.tolist(), windows, strict=True):
        label = value // 1000 if value >= 1000 else value
        if label not in (COUNTED if value >= 1000 else IDS.values()) or value < 0:
            raise DataError(
                f"{path}: {area} pixels have the id {value}; allowed: a label id ({_listed(set(IDS.values()) - {-1})}) "
                f"or 1000 x label + number for the labels {_listed(COUNTED)}"
            )
        if label in CLASSES:
            box = [columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start]
            crowd = int(label in THINGS and value < 1000)
            segments.append({"id": value, "category_id": label, "iscrowd": crowd, "area": area, "bbox": box})
    return segments


def _image_size(path: Path) -> Size:
    with opened_image(path, "image", "unpack leftImg8bit_trainvaltest.zip again") as image:
        return image.height, image.width


def _listed(ids: set[int]) -> str:
    return ", ".join(map(str, sorted(ids)))
