"""A data doctor: walks a split and lists every problem, instead of stopping at the first."""

from __future__ import annotations

from itertools import chain

from panoptic_occ.data.coco.annotations import ImageRecord
from panoptic_occ.data.coco.dataset import CocoPanoptic
from panoptic_occ.data.coco.layout import Layout
from panoptic_occ.data.coco.reader import Problem, read_image, read_instances, read_panoptic
from panoptic_occ.structures.categories import Categories


def check(dataset: CocoPanoptic, processes: int | None = 1) -> list[Problem]:
    """All problems of a split, in the order of its images."""
    return list(chain.from_iterable(dataset.map_records(_check_image, processes, "checking")))


def _check_image(record: ImageRecord, layout: Layout, categories: Categories) -> list[Problem]:
    """All problems of one image: its file, its panoptic PNG and segments, its instances."""
    return [
        *read_image(record, layout)[1],
        *read_panoptic(record, layout, categories)[1],
        *read_instances(record, layout, categories)[1],
    ]
