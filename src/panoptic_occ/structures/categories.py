"""Categories of a data set: dataset id <-> contiguous label, thing or stuff, name and colour.

Everything comes from the ``categories`` list of the annotation file; no class count is typed anywhere.
Contiguous labels: the T things first (0 .. T-1, by dataset id), then the stuff classes (T .. T+S-1).
"""

from __future__ import annotations

import colorsys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from panoptic_occ.common.errors import DataError, did_you_mean
from panoptic_occ.common.scalars import TRUTH_VALUES, truth_value, whole_number


@dataclass(frozen=True)
class Category:
    """One category: ``id`` is the dataset's own number, ``color`` is RGB in 0..255.

    >>> from panoptic_occ import Category
    >>> Category(id=17, name="cat", isthing=True, color=(255, 0, 0)).name
    'cat'
    """

    id: int
    name: str
    isthing: bool
    color: tuple[int, int, int]


@dataclass(frozen=True)
class Categories:
    """All categories of a data set, in the order of their contiguous labels.

    >>> from panoptic_occ import Categories
    >>> entries = [{"id": 101, "name": "sky", "isthing": 0}, {"id": 17, "name": "cat", "isthing": 1}]
    >>> categories = Categories.from_json(entries)
    >>> [category.name for category in categories.items], categories.num_things
    (['cat', 'sky'], 1)
    >>> categories.label_of(101)
    1
    """

    items: tuple[Category, ...]

    @staticmethod
    def from_json(entries: Iterable[Mapping[str, Any]], source: str = "categories") -> Categories:
        """From the ``categories`` list of a COCO panoptic JSON; ``source`` names the file in errors."""
        if not isinstance(entries, Iterable):
            raise DataError(f"{source}: has {entries!r} where a list of id, name and isthing is needed")
        entries = list(entries)
        by_id: dict[int, Category] = {}
        for k, entry in enumerate(entries):
            if not isinstance(entry, Mapping):
                raise DataError(f"{source}: category {k} is {entry!r}; a list of id, name and isthing is needed")
            missing = {"id", "name", "isthing"} - entry.keys()
            if missing:
                raise DataError(
                    f"{source}: category {entry.get('id', entry.get('name', k))!r} lacks {sorted(missing)}; a panoptic "
                    "category needs id, name and isthing (1 for things, 0 for stuff)"
                )
            try:
                number, name = whole_number(entry["id"]), str(entry["name"])
            except ValueError:
                message = f"{source}: category '{entry['name']}' has the id {entry['id']!r}; a whole number is needed"
                raise DataError(message) from None
            if number in by_id:
                raise DataError(f"{source}: category id {number} appears twice; ids must be unique")
            try:
                isthing = truth_value(entry["isthing"])
            except ValueError:
                raise DataError(
                    f"{source}: category {number} ('{entry['name']}') has isthing {entry['isthing']!r}; allowed: "
                    f"{TRUTH_VALUES} (1 for things, 0 for stuff)"
                ) from None
            color = entry.get("color") or _spread_color(k, len(entries))
            if not (isinstance(color, list | tuple) and len(color) == 3 and all(part in range(256) for part in color)):
                wanted = "three numbers in 0 .. 255 are needed, or no color at all"
                raise DataError(f"{source}: category {number} has the color {color!r}; {wanted}")
            red, green, blue = color
            by_id[number] = Category(number, name, isthing, (red, green, blue))
        if not by_id:
            raise DataError(f"{source}: the list of categories is empty; at least one category is needed")
        return Categories(tuple(sorted(by_id.values(), key=lambda c: (not c.isthing, c.id))))

    def to_json(self) -> list[dict[str, Any]]:
        """The ``categories`` list of a COCO panoptic JSON."""
        return [{"id": c.id, "name": c.name, "isthing": int(c.isthing), "color": list(c.color)} for c in self.items]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, label: int) -> Category:
        return self.items[label]

    @cached_property
    def num_things(self) -> int:
        """Number of thing categories: labels below it are things, from it on stuff."""
        return sum(c.isthing for c in self.items)

    @cached_property
    def _labels(self) -> dict[int, int]:
        return {c.id: label for label, c in enumerate(self.items)}

    def label_of(self, category_id: int, source: str = "annotation") -> int:
        """Contiguous label of a dataset id; DataError for an id that the data set does not have."""
        if category_id not in self._labels:
            hint = did_you_mean(category_id, self._labels)
            raise DataError(f"{source}: category_id {category_id} is not among the data set's categories; {hint}")
        return self._labels[category_id]


def _spread_color(k: int, n: int) -> tuple[int, int, int]:
    red, green, blue = colorsys.hsv_to_rgb(k / max(n, 1), 0.55 + 0.4 * (k % 2), 0.75 + 0.25 * (k % 3 == 0))
    return round(255 * red), round(255 * green), round(255 * blue)
