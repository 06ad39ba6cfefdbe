"""A tiny data set in the official layout, drawn by hand, that tests may spoil in one place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as rle_tools

from panoptic_occ.data.coco.dataset import CocoPanoptic
from panoptic_occ.data.coco.layout import Layout

SKY, CAT, DOG = 101, 17, 18
CATEGORIES = [
    {"id": SKY, "name": "sky", "isthing": 0, "color": [10, 20, 30]},
    {"id": DOG, "name": "dog", "isthing": 1, "color": [0, 255, 0]},
    {"id": CAT, "name": "cat", "isthing": 1, "color": [255, 0, 0]},
]


def rle(mask: np.ndarray) -> dict[str, Any]:
    encoded = rle_tools.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(encoded["size"]), "counts": encoded["counts"].decode()}


class TinyCoco:
    """Three images; image 5 (12 x 16 px) has a cat (polygon), a dog on it (RLE), a crowd of dogs, sky and void.

    Cat: rows 1-8, columns 1-8 (64 px), 52 visible.  Dog: rows 6-9, columns 5-12 (32 px), all visible, 12 px on the cat.
    Image 9 (10 x 10 px) is all sky and has no instance.  Image 7 (8 x 6 px) has one cat without a panoptic segment, on
    a crowd of cats of one pixel.
    """

    def __init__(self, root: Path, split: str = "val2017") -> None:
        self.root, self.split = root, split
        ids = np.zeros((12, 16), dtype=np.int64)
        ids[0], ids[11, 8:] = 300, 70_000
        ids[1:9, 1:9] = 1
        ids[6:10, 5:13] = 2
        dog = np.zeros((12, 16), dtype=bool)
        dog[6:10, 5:13] = True
        cat = np.zeros((8, 6), dtype=bool)
        cat[2:4, 2:5] = True
        self.ids = {5: ids, 9: np.full((10, 10), 4), 7: np.full((8, 6), 8)}
        self.ids[7][2, 2] = 9
        crowd = np.zeros((12, 16), dtype=bool)
        crowd[11, 8:] = True
        self.categories = [dict(category) for category in CATEGORIES]
        self.images = [
            {"id": number, "file_name": f"{number:04}.jpg", "height": ids.shape[0], "width": ids.shape[1]}
            for number, ids in self.ids.items()
        ]
        self.instances: list[dict[str, Any]] = [
            self._instance(11, 5, CAT, [[1, 1, 9, 1, 9, 9, 1, 9]], [1, 1, 8, 8]),
            self._instance(12, 5, DOG, rle(dog), [5, 6, 8, 4]),
            {**self._instance(13, 5, DOG, rle(crowd), [8, 11, 8, 1]), "iscrowd": 1},
            self._instance(14, 7, CAT, rle(cat), [2, 2, 3, 2]),
        ]
        self.panoptic: list[dict[str, Any]] = [
            self._note(5, [(1, CAT, 52, 0), (2, DOG, 32, 0), (300, SKY, 16, 0), (70_000, DOG, 8, 1)]),
            self._note(9, [(4, SKY, 100, 0)]),
            self._note(7, [(8, SKY, 47, 0), (9, CAT, 1, 1)]),
        ]
        self.instance_categories = [dict(c) for c in CATEGORIES if c["isthing"]]
        self.instance_images = [dict(image) for image in self.images]

    @staticmethod
    def _instance(number: int, image: int, category: int, segmentation: Any, bbox: list[float]) -> dict[str, Any]:
        entry = {"id": number, "image_id": image, "category_id": category, "iscrowd": 0}
        return {**entry, "segmentation": segmentation, "bbox": bbox, "area": 0}

    @staticmethod
    def _note(image: int, segments: list[tuple[int, int, int, int]]) -> dict[str, Any]:
        keys = ("id", "category_id", "area", "iscrowd")
        infos = [dict(zip(keys, segment, strict=True)) for segment in segments]
        return {"image_id": image, "file_name": f"{image:04}.png", "segments_info": infos}

    def segment(self, number: int) -> dict[str, Any]:
        return next(s for note in self.panoptic for s in note["segments_info"] if s["id"] == number)

    def instance(self, number: int) -> dict[str, Any]:
        return next(entry for entry in self.instances if entry["id"] == number)

    @property
    def layout(self) -> Layout:
        return Layout.of(self.root, self.split)

    def image_path(self, number: int) -> Path:
        return self.layout.images / f"{number:04}.jpg"

    def png_path(self, number: int) -> Path:
        return self.layout.panoptic / f"{number:04}.png"

    def data(self, **options: Any) -> CocoPanoptic:
        """The images as they are now, which are written first."""
        self.write()
        return CocoPanoptic(self.layout, **options)

    def write(self) -> Path:
        """Writes everything; the root folder."""
        for number, ids in self.ids.items():
            for path in (self.image_path(number), self.png_path(number)):
                path.parent.mkdir(parents=True, exist_ok=True)
            rgb = np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=-1).astype(np.uint8)
            Image.fromarray(rgb).save(self.png_path(number))
            Image.fromarray(np.full((*ids.shape, 3), number * 20, dtype=np.uint8)).save(self.image_path(number))
        self.write_lists()
        return self.root

    def write_lists(self) -> None:
        """Writes both annotation files."""
        for path, *lists in (
            (self.layout.panoptic_json, self.images, self.panoptic, self.categories),
            (self.layout.instances_json, self.instance_images, self.instances, self.instance_categories),
        ):
            path.write_text(json.dumps(dict(zip(("images", "annotations", "categories"), lists, strict=True))))


@pytest.fixture
def tiny_coco(tmp_path: Path) -> TinyCoco:
    """The tiny data set, not yet written: spoil it, then call ``write``."""
    return TinyCoco(tmp_path / "tiny")
