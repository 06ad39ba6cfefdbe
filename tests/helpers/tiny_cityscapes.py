"""Files like those of Cityscapes, of boxes whose pixels can be counted on paper; nothing here uses the reader."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

LABELS = {
    "out of roi": 3, "road": 7, "sky": 23, "person": 24, "rider": 25, "car": 26, "bus": 28, "caravan": 29,
    "bicycle": 33,
}  # fmt: skip
THINGS = {"person", "rider", "car", "bus", "bicycle"}


@dataclass(frozen=True)
class Box:
    """An object that covers the columns left .. right and the rows top .. bottom, all of them included."""

    label: str
    left: int
    top: int
    right: int
    bottom: int
    deleted: bool = False

    def mask(self, size: tuple[int, int]) -> np.ndarray:
        covered = np.zeros(size, dtype=bool)
        covered[self.top : self.bottom + 1, self.left : self.right + 1] = True
        return covered

    def entry(self) -> dict[str, Any]:
        corners = [[self.left, self.top], [self.right, self.top], [self.right, self.bottom], [self.left, self.bottom]]
        return {"label": self.label, "polygon": corners} | ({"deleted": 1} if self.deleted else {})


STREET = (
    Box("road", 0, 12, 39, 23),
    Box("sky", 0, 0, 39, 11),
    Box("person", 3, 7, 5, 9),  # behind the first car, nothing of it can be seen
    Box("car", 2, 6, 17, 17),
    Box("car", 10, 8, 25, 19),
    Box("cargroup", 28, 2, 37, 9),
    Box("caravan", 28, 12, 33, 16),
    Box("person", 15, 10, 18, 21),
    Box("license plate", 12, 15, 14, 16),
    Box("out of roi", 0, 22, 39, 23),
    Box("car", 0, 0, 39, 23, deleted=True),
)


def paint(boxes: tuple[Box, ...], size: tuple[int, int]) -> tuple[np.ndarray, list[int]]:
    """The instance ids of every pixel, and the id of every box (-1: not painted); numbers of a class have gaps."""
    ids, values, seen = np.zeros(size, dtype=np.int64), [], Counter[str]()
    for box in boxes:
        value = -1
        if not box.deleted and box.label != "license plate":
            group = box.label.endswith("group")
            value = LABELS[box.label.removesuffix("group")]
            if not group and box.label in (*THINGS, "caravan"):
                seen[box.label] += 1
                value = 1000 * value + 3 * seen[box.label]
            ids[box.mask(size)] = value
        values.append(value)
    return ids, values


def random_street(rng: np.random.Generator, size: tuple[int, int], things: int) -> tuple[Box, ...]:
    """Road below sky, then things at random places."""
    height, width = size
    boxes = [Box("sky", 0, 0, width - 1, height // 2 - 1), Box("road", 0, height // 2, width - 1, height - 1)]
    for _ in range(things):
        left, top = int(rng.integers(0, width - 8)), int(rng.integers(0, height - 8))
        right, bottom = left + int(rng.integers(4, width // 3)), top + int(rng.integers(4, height // 2))
        label = str(rng.choice(sorted(THINGS)))
        boxes.append(Box(label, left, top, min(right, width - 1), min(bottom, height - 1)))
    return tuple(boxes)


@dataclass
class TinyCityscapes:
    """Two images of aachen and one of bremen to train, one of ulm to validate; ``(split, stem)`` -> boxes."""

    root: Path
    size: tuple[int, int] = (24, 40)
    streets: dict[tuple[str, str], tuple[Box, ...]] = field(
        default_factory=lambda: {
            ("train", "aachen/aachen_000000_000019"): STREET,
            ("train", "aachen/aachen_000001_000019"): STREET[:5],
            ("train", "bremen/bremen_000000_000019"): STREET[:2],
            ("val", "ulm/ulm_000000_000019"): STREET,
        }
    )

    def image(self, split: str, stem: str) -> Path:
        return self.root / "leftImg8bit" / split / f"{stem}_leftImg8bit.png"

    def polygons(self, split: str, stem: str) -> Path:
        return self.root / "gtFine" / split / f"{stem}_gtFine_polygons.json"

    def instance_ids(self, split: str, stem: str) -> Path:
        return self.root / "gtFine" / split / f"{stem}_gtFine_instanceIds.png"

    def write(self) -> Path:
        """Writes everything; the root folder."""
        height, width = self.size
        for k, ((split, stem), boxes) in enumerate(self.streets.items()):
            picture, objects, png = (f(split, stem) for f in (self.image, self.polygons, self.instance_ids))
            for path in (picture, objects):
                path.parent.mkdir(parents=True, exist_ok=True)
            ids, _ = paint(boxes, self.size)
            Image.fromarray(ids.astype(np.uint16)).save(png)
            colors = np.stack([ids % 251, ids // 251, np.full(self.size, k)], axis=-1)
            Image.fromarray(colors.astype(np.uint8)).save(picture)
            entries = [box.entry() for box in boxes]
            objects.write_text(json.dumps({"imgHeight": height, "imgWidth": width, "objects": entries}))
            Image.fromarray(np.zeros(self.size, np.uint8)).save(png.with_name(f"{Path(stem).name}_gtFine_labelIds.png"))
        return self.root
