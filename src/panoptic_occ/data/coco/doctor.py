"""A data doctor: walks a split and lists every problem, instead of stopping at the first."""

from __future__ import annotations

from functools import partial

from rich.table import Table

from panoptic_occ.common.parallel import ordered_map
from panoptic_occ.data.coco.annotations import ImageRecord, Layout
from panoptic_occ.data.coco.dataset import CocoPanoptic
from panoptic_occ.data.coco.reader import Problem, read_image, read_instances, read_panoptic
from panoptic_occ.structures.categories import Categories


def check_image(record: ImageRecord, layout: Layout, categories: Categories) -> list[Problem]:
    """All problems of one image: its file, its panoptic PNG and segments, its instances."""
    return [
        *read_image(record, layout)[1],
        *read_panoptic(record, layout, categories)[1],
        *read_instances(record, layout, categories)[1],
    ]


def check(dataset: CocoPanoptic, processes: int | None = 1) -> list[Problem]:
    """All problems of a split, in the order of its images."""
    work = partial(check_image, layout=dataset.layout, categories=dataset.categories)
    records = (dataset.record(index) for index in range(len(dataset)))
    title = f"checking {dataset.layout.images.name}"
    return [problem for found in ordered_map(work, records, len(dataset), processes, title) for problem in found]


def problems_table(problems: list[Problem], title: str) -> Table:
    """The problems as a table for the terminal, fatal ones first."""
    table = Table(title=title)
    for name in ("", "file", "image", "id", "problem", "fix"):
        table.add_column(name, overflow="fold")
    for p in sorted(problems, key=lambda p: not p.fatal):
        number = "" if p.id is None else str(p.id)
        table.add_row("error" if p.fatal else "warning", p.file, str(p.image_id), number, p.problem, p.fix)
    return table
