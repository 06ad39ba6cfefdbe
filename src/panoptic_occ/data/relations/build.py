"""Computes the ground-truth relations of a split in parallel and keeps them in a cache file."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from panoptic_occ.common.errors import DataError
from panoptic_occ.common.parallel import ordered_map
from panoptic_occ.data.coco.annotations import ImageRecord, Layout
from panoptic_occ.data.coco.dataset import CocoPanoptic
from panoptic_occ.data.coco.reader import read_instances, read_panoptic
from panoptic_occ.data.relations.cache import ImageRelation, RelationCache
from panoptic_occ.ops.ground_truth_relation import ground_truth_relation
from panoptic_occ.ops.segment_matching import SegmentMatch, matched_segments
from panoptic_occ.structures.categories import Categories

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class _Related:
    image: ImageRelation
    tolerated: Counter[str]


def relate(record: ImageRecord, layout: Layout, categories: Categories, match: SegmentMatch = "share") -> _Related:
    """The relation of one image, and how many problems of each kind were tolerated; a fatal one raises DataError."""
    panoptic, problems = read_panoptic(record, layout, categories)
    instances, more = read_instances(record, layout, categories)
    problems += more
    for problem in problems:
        if problem.fatal:
            raise DataError(
                f"{problem} (`python -m panoptic_occ.prepare check=true` lists all problems of the data set)"
            )
    assert panoptic is not None  # an unreadable map is a fatal problem
    segment_ids = matched_segments(instances.masks, instances.labels, panoptic, match)
    relation = ground_truth_relation(instances.masks, segment_ids, panoptic.ids)
    image = ImageRelation(record.image_id, instances.ids, segment_ids, relation)
    return _Related(image, Counter(problem.kind for problem in problems))


def build_relations(dataset: CocoPanoptic, path: Path, processes: int | None = 1) -> RelationCache:
    """Computes the relations of every image of ``dataset`` and writes them to ``path`` at the very end."""
    work = partial(relate, layout=dataset.layout, categories=dataset.categories, match=dataset.match)
    records = (dataset.record(index) for index in range(len(dataset)))
    images: list[ImageRelation] = []
    tolerated: Counter[str] = Counter()
    for result in ordered_map(work, records, len(dataset), processes, f"relations of {dataset.layout.images.name}"):
        images.append(result.image)
        tolerated += result.tolerated
    cache = RelationCache.of(images)
    cache.write(path, dataset.fingerprint, {"images": len(cache), "tolerated": dict(tolerated)})
    log.info("%s: relations of %d images; tolerated problems: %s", path, len(cache), dict(tolerated) or "none")
    return cache


def ensure_relations(
    dataset: CocoPanoptic, path: Path, processes: int | None = 1, rebuild: bool = False
) -> RelationCache:
    """The relation cache at ``path``; built when it is missing, broken, of another version or of other annotations."""
    if path.exists() and not rebuild:
        try:
            return RelationCache.read(path, dataset.fingerprint)
        except DataError as error:
            log.warning("%s; it is built again now", error)
    return build_relations(dataset, path, processes)
