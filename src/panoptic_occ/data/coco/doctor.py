"""A data doctor: walks a split and lists every problem and contradiction, instead of stopping at the first."""

from __future__ import annotations

from panoptic_occ.data.coco.annotations import ImageRecord
from panoptic_occ.data.coco.contradictions import Overlap, compare, of_split, orientation_problems
from panoptic_occ.data.coco.dataset import CocoPanoptic
from panoptic_occ.data.coco.layout import Layout
from panoptic_occ.data.coco.reader import Problem, read_image, read_instances, read_panoptic
from panoptic_occ.structures.categories import Categories


def check(dataset: CocoPanoptic, processes: int | None = 1) -> list[Problem]:
    """All problems of a split: those of its files in the order of its images, then those of the split as a whole."""
    problems: list[Problem] = []
    overlap = Overlap()
    work = _check_image if dataset.has_instances else _check_panoptic
    for of_image, more in dataset.map_records(work, processes, "checking"):
        problems += of_image
        overlap += more
    problems += of_split(overlap, dataset.layout, dataset.categories)
    if dataset.renumbered:
        text = (
            "the ids of the annotations are not whole numbers from 1, each once; they are numbered anew for all metrics"
        )
        fix = "number them anew: other tools score such a file wrongly"
        file = str(dataset.layout.instances_json)
        problems.append(Problem("annotation ids", file, None, None, text, fix, fatal=False))
    return problems


def _check_image(record: ImageRecord, layout: Layout, categories: Categories) -> tuple[list[Problem], Overlap]:
    """All problems of one image: its file, its panoptic PNG and segments, its instances, and how the two agree."""
    panoptic, of_map = read_panoptic(record, layout, categories)
    instances, of_instances = read_instances(record, layout, categories)
    problems = [*_check_file(record, layout), *of_map, *of_instances]
    if panoptic is None or any(problem.fatal for problem in of_map + of_instances):
        return problems, Overlap()  # whatever else is wrong follows from these
    overlap, contradictions = compare(instances, panoptic, record, layout, categories)
    return problems + contradictions, overlap


def _check_panoptic(record: ImageRecord, layout: Layout, categories: Categories) -> tuple[list[Problem], Overlap]:
    """The same for data without instances of their own."""
    return [*_check_file(record, layout), *read_panoptic(record, layout, categories)[1]], Overlap()


def _check_file(record: ImageRecord, layout: Layout) -> list[Problem]:
    return [*read_image(record, layout)[1], *orientation_problems(record, layout)]
