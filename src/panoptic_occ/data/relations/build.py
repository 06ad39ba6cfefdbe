"""Computes the ground-truth relations of a split in parallel and keeps them in a cache file."""

from __future__ import annotations

import logging
from collections import Counter
from functools import partial
from pathlib import Path

from panoptic_occ.common.errors import DataError
from panoptic_occ.data.coco.annotations import ImageRecord
from panoptic_occ.data.coco.dataset import CocoPanoptic, annotated_relation
from panoptic_occ.data.coco.layout import Layout
from panoptic_occ.data.coco.reader import read_instances, read_panoptic
from panoptic_occ.data.relations.cache import ImageRelation, RelationCache
from panoptic_occ.ops.segment_matching import SegmentMatch
from panoptic_occ.structures.categories import Categories

log = logging.getLogger(__name__)


def relate(
    record: ImageRecord, layout: Layout, categories: Categories, match: SegmentMatch = "share"
) -> tuple[ImageRelation, Counter[str]]:
    """The relation of one image, and how many problems of each kind were tolerated; a fatal one raises DataError."""
    panoptic, problems = read_panoptic(record, layout, categories)
    instances, more = read_instances(record, layout, categories)
    problems += more
    if fatal := next((problem for problem in problems if problem.fatal), None):
        raise DataError(f"{fatal} (`python -m panoptic_occ.prepare check=true` lists all problems of the data set)")
    assert panoptic is not None  # an unreadable map is a fatal problem
    relation = annotated_relation(instances, panoptic, match)
    return ImageRelation(record.image_id, instances.labels, relation), Counter(problem.kind for problem in problems)


def build_relations(dataset: CocoPanoptic, path: Path, processes: int | None = 1) -> RelationCache:
    """Computes the relations of every image of ``dataset`` and writes them to ``path`` at the very end."""
    images: list[ImageRelation] = []
    tolerated: Counter[str] = Counter()
    work = partial(relate, match=dataset.match)
    for image, problems in dataset.map_records(work, processes, "relations of"):
        images.append(image)
        tolerated += problems
    cache = RelationCache.of(images)
    cache.write(path, dataset.annotation_fingerprint)
    log.info("%s: relations of %d images; tolerated problems: %s", path, len(cache), dict(tolerated) or "none")
    return cache


def ensure_relations(
    dataset: CocoPanoptic, path: Path, processes: int | None = 1, rebuild: bool = False
) -> RelationCache:
    """The relation cache at ``path``; built when it is missing, broken, of another version or of other annotations."""
    if path.exists() and not rebuild:
        try:
            return RelationCache.read(path, dataset.annotation_fingerprint)
        except DataError as error:
            log.warning("%s; it is built again now", error)
    return build_relations(dataset, path, processes)
