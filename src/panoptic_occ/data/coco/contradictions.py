"""What contradicts itself although every file is sound: instances against the panoptic map, and split against split."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from panoptic_occ.data.coco.annotations import ImageRecord
from panoptic_occ.data.coco.layout import Layout
from panoptic_occ.data.coco.orientation import TURNS, fitting
from panoptic_occ.data.coco.reader import Instances, Problem
from panoptic_occ.ops.segment_matching import match_by_share
from panoptic_occ.structures.categories import Categories, Category
from panoptic_occ.structures.panoptic_map import PanopticMap

MIN_OF_IMAGE, MIN_OF_SPLIT = 0.5, 0.8
"""Smallest owner share that raises no question.  On images of COCO it is 1.00; with polygons shifted by 80 px it is
0.26, by 20 px 0.67, and with permuted classes 0."""
MIN_INSTANCES = 3
"""Fewer instances of a class say nothing about the class."""


@dataclass
class Overlap:
    """How the instances of one or more images lie on their panoptic map.

    ``pixels``: of all non-crowd segments of things, ``covered`` by the instance that the segment belongs to; of an
    instance without a usable mask, the largest segment of its class that nothing else claims is left out.
    ``listed``: all instances; ``instances``: how many are compared, by label; ``elsewhere``: how many of these lie on
    no pixel of their class, by label and the label of the segment that most of them lies on (None: VOID).
    """

    covered: int = 0
    pixels: int = 0
    listed: int = 0
    instances: Counter[int] = field(default_factory=Counter)
    elsewhere: Counter[tuple[int, int | None]] = field(default_factory=Counter)

    def __add__(self, other: Overlap) -> Overlap:
        return Overlap(
            self.covered + other.covered,
            self.pixels + other.pixels,
            self.listed + other.listed,
            self.instances + other.instances,
            self.elsewhere + other.elsewhere,
        )

    @property
    def owner_share(self) -> float:
        """The share of the things' pixels that is under the mask of its own instance; 1 without things."""
        return self.covered / self.pixels if self.pixels else 1.0


def compare(
    instances: Instances, panoptic: PanopticMap, record: ImageRecord, layout: Layout, categories: Categories
) -> tuple[Overlap, list[Problem]]:
    """How the instances of an image lie on its map, and those without a segment of their class under them."""
    ids, file = panoptic.ids.numpy(), str(layout.instances_json)
    label_of = {segment.id: segment.label for segment in panoptic.segments}
    given = {annotation.id: annotation.given_id for annotation in record.annotations}
    overlap, problems = Overlap(listed=len(record.annotations)), []
    segment_ids = match_by_share(instances.masks, instances.labels, panoptic).tolist()
    for (window, crop), label, number, segment_id in zip(
        instances.masks, instances.labels.tolist(), instances.ids.tolist(), segment_ids, strict=True
    ):
        under = ids[window][crop.numpy()]
        values, counts = np.unique(under, return_counts=True)
        labels = Counter[int | None]()
        for value, count in zip(values.tolist(), counts.tolist(), strict=True):
            labels[label_of.get(value)] += count
        overlap.instances[label] += 1
        overlap.covered += int((under == segment_id).sum()) if segment_id else 0
        if label not in labels:
            most = labels.most_common(1)[0][0]
            overlap.elsewhere[label, most] += 1
            under_it = _names(labels, categories)
            text = f"the panoptic map has no {categories[label].name} under this instance (pixels: {under_it})"
            fix = "compare class and outline with the map; what others hide altogether needs no change"
            problems.append(Problem("nothing under it", file, record.image_id, given[number], text, fix, fatal=False))
    usable = set(instances.ids.tolist())
    maskless = Counter(
        categories.label_of(note.category_id, file) for note in record.annotations if note.id not in usable
    )
    things = []
    for segment in sorted(panoptic.segments, key=lambda segment: segment.area, reverse=True):
        if segment.id not in segment_ids and maskless[segment.label]:
            maskless[segment.label] -= 1  # it may be that of the instance without a mask
        elif segment.isthing and not segment.iscrowd:
            things.append(segment.id)
    overlap.pixels = int(np.isin(ids, things).sum())
    if overlap.owner_share < MIN_OF_IMAGE:
        text = f"instances cover {overlap.owner_share:.0%} of the pixels of their segments"
        fix = "compare the image, its map and its instances: one of them may be of another image, shifted or turned"
        problems.append(Problem("owner share of an image", file, record.image_id, None, text, fix, fatal=False))
    return overlap, problems


def of_split(overlap: Overlap, layout: Layout, categories: Categories) -> list[Problem]:
    """What the instances of a whole split say: classes that are permuted, and outlines that lie elsewhere."""
    file, problems = str(layout.instances_json), []
    for label, count in overlap.instances.items():
        others = Counter({most: n for (own, most), n in overlap.elsewhere.items() if own == label})
        if count >= MIN_INSTANCES and 2 * others.total() > count:
            text = (
                f"{others.total()} of {count} instances lie on no segment of their class ({_names(others, categories)})"
            )
            fix = "compare the category ids of both annotation files: they may be numbered differently"
            problems.append(Problem("class at odds", file, None, categories[label].name, text, fix, fatal=False))
    if overlap.listed >= (MIN_INSTANCES if overlap.instances else 1) and not overlap.pixels:
        text = f"none of the {overlap.listed} instances could be compared with the panoptic maps"
        fix = "mend the other problems first, then look again: outlines and classes are unchecked"
        problems.append(Problem("nothing compared", file, None, None, text, fix, fatal=False))
    if overlap.owner_share < MIN_OF_SPLIT:
        text = f"instances cover {overlap.owner_share:.0%} of the pixels of their segments in the panoptic maps"
        fix = "both annotations must be of the same images, sizes and classes; nobody can tell an order from these"
        problems.append(Problem("owner share", file, None, None, text, fix, fatal=False))
    return problems


def orientation_problems(record: ImageRecord, layout: Layout) -> list[Problem]:
    """What an EXIF orientation of the image means for its annotation."""
    path = layout.images / record.file_name
    value, ways = fitting(path, record.size)
    if value == 1:
        return []
    follows = "follow" if layout.orientation == "exif" else "do not follow"
    text = f"its EXIF orientation is {value} ({TURNS[value]}), which training, evaluation and predict {follows}"
    fits = f"data.source.orientation={ways[0]}" if len(ways) == 1 else "both ways" if ways else "neither way"
    text += f"; by its size the annotation fits {fits}"
    fix = "look at the image beside its map, then set data.source.orientation=pixels or exif, or store it without EXIF"
    return [Problem("EXIF orientation", str(path), record.image_id, None, text, fix, fatal=False)]


def differing_categories(train: Categories, val: Categories, file: Path, other: Path) -> list[Problem]:
    """Categories of the validation split, in ``file``, that are not those of the training split, in ``other``."""
    trained, held_out = ({category.id: category for category in part.items} for part in (train, val))
    problems = []
    for number in sorted(trained.keys() | held_out.keys()):
        here, there = held_out.get(number), trained.get(number)
        if here != there:
            text = f"the category is {_described(here)} here and {_described(there)} in {other.name}"
            fix = "write one list of categories into the files of both splits"
            problems.append(Problem("categories differ", str(file), None, number, text, fix, fatal=False))
    return problems


def _described(category: Category | None) -> str:
    if category is None:
        return "missing"
    return f"{'thing' if category.isthing else 'stuff'} '{category.name}' of color {category.color}"


def _names(labels: Counter[int | None], categories: Categories) -> str:
    """The most frequent classes, as words of a message."""
    return ", ".join(
        f"{count} on {'VOID' if label is None else categories[label].name}" for label, count in labels.most_common(3)
    )
