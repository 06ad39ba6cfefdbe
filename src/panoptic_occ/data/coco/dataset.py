"""Reader of a split in the official COCO panoptic layout; the generated scenes use the same layout.

COCO: Lin et al., ECCV 2014.  Panoptic annotations: Kirillov et al., CVPR 2019.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property, partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor
from torch.utils.data import Dataset

from panoptic_occ.common.errors import DataError
from panoptic_occ.common.parallel import ordered_map
from panoptic_occ.data.coco.annotations import ImageRecord, read_annotations
from panoptic_occ.data.coco.layout import Layout
from panoptic_occ.data.coco.panoptic_instances import (
    InstanceTruth,
    disjoint_relation,
    panoptic_instances,
    thing_segments,
)
from panoptic_occ.data.coco.reader import Instances, Problem, read_image, read_instances, read_panoptic
from panoptic_occ.data.fingerprint import split_fingerprint
from panoptic_occ.data.relations.cache import RelationCache
from panoptic_occ.ops.ground_truth_relation import ground_truth_relation
from panoptic_occ.ops.segment_matching import SegmentMatch, matched_segments
from panoptic_occ.structures.panoptic_map import PanopticMap
from panoptic_occ.structures.relation import GroundTruthRelation
from panoptic_occ.structures.sample import Sample
from panoptic_occ.structures.target import Target

log = logging.getLogger(__name__)

Out = TypeVar("Out")


class CocoPanoptic(Dataset[Sample]):
    """The images of one split with all their annotations, at the original resolution.

    ``image_ids`` (n,), ``sizes`` (n, 2) as (height, width), ``categories`` from the panoptic JSON.  ``skipped`` counts
    what was left out on reading; ``warnings`` counts the tolerated problems of the images loaded by this process.
    ``relations``: cached ground-truth relations; without them every load computes its own.  ``renumbered``: the
    annotations have other ids than in their file.

    With ``skip_empty``, images without a non-crowd instance are left out (counted as ``images without instances``).
    ``inst_gt``: the instances are those of the instances JSON (``coco``, full masks that overlap) or are cut from the
    ``panoptic`` map, which has no relations to cache.  ``match``: how an instance finds its segment of the panoptic
    map, by the ``share`` of it that it covers or by the nearest ``box`` (see ``ops.segment_matching``).  ``manifest``:
    where the digests of its files are kept.
    """

    def __init__(
        self,
        layout: Layout,
        *,
        skip_empty: bool = False,
        inst_gt: InstanceTruth = "coco",
        match: SegmentMatch = "share",
        manifest: Path | None = None,
    ) -> None:
        self.layout = layout
        self._manifest = manifest
        self.inst_gt = inst_gt
        self.match: SegmentMatch = match
        self.relations: RelationCache | None = None
        self.warnings: Counter[str] = Counter()
        self.has_instances = inst_gt == "coco" or layout.instances_json.exists()
        split = read_annotations(layout, self.has_instances)
        self.renumbered = split.renumbered
        self.categories, self.skipped, self._records = split.categories, split.skipped, split.records
        self._rows = np.arange(len(split.records))  # of the images that are not left out
        if skip_empty:
            panoptic = inst_gt == "panoptic"
            counts = thing_segments(split.records, split.categories) if panoptic else split.instances
            self._rows = np.flatnonzero(counts)
        if empty := len(split.records) - len(self._rows):
            self.skipped["images without instances"] = empty
            log.info("%s: %d images without instances are left out", layout.images, empty)
        if not len(self._rows):
            raise DataError(
                f"{layout.instances_json}: none of the {len(split.records)} images has a non-crowd instance and "
                "skip_empty leaves such images out; set skip_empty=false or annotate instances"
            )
        self.image_ids: Int[Tensor, " n"] = torch.from_numpy(split.image_ids[self._rows])
        self.sizes: Int[Tensor, "n 2"] = torch.from_numpy(split.sizes[self._rows])

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Sample:
        return self.load(index)

    def record(self, index: int) -> ImageRecord:
        """What the annotation files say about an image; small and picklable."""
        return self._records[int(self._rows[index])]

    def map_records(self, function: Callable[..., Out], processes: int | None, title: str) -> Iterator[Out]:
        """``function(record, layout, categories)`` of every image, in their order, see ``ordered_map``."""
        work = partial(function, layout=self.layout, categories=self.categories)
        records = (self.record(index) for index in range(len(self)))
        return ordered_map(work, records, len(self), processes, f"{title} {self.layout.images.name}")

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of all files of the split, also of images that are left out, see ``data.fingerprint``."""
        return split_fingerprint(self.layout, lambda: self._records, self._manifest)

    @cached_property
    def annotation_fingerprint(self) -> str:
        """The same without the images: the order of the instances follows from the annotations alone."""
        return split_fingerprint(self.layout, lambda: self._records, self._manifest, images=False)

    def load(self, index: int) -> Sample:
        """The image and its target.  Raises DataError at the first fatal problem of the image."""
        record = self.record(index)
        image = self._checked(read_image(record, self.layout))
        return Sample(image, record.image_id, record.file_name, record.size, self.target(index))

    def target(self, index: int) -> Target:
        """The annotations of an image alone.  Raises DataError at the first fatal problem of the image."""
        record = self.record(index)
        panoptic = self._checked(read_panoptic(record, self.layout, self.categories))
        if self.inst_gt == "panoptic":
            instances = panoptic_instances(panoptic)
            relation = disjoint_relation(instances)
        else:
            instances = self._checked(read_instances(record, self.layout, self.categories))
            cached = self._cached_relation(record.image_id, len(instances.ids))
            relation = annotated_relation(instances, panoptic, self.match) if cached is None else cached
        masks = instances.masks
        return Target(masks.boxes, instances.labels, masks, panoptic, relation, instances.ids)

    def _cached_relation(self, image_id: int, count: int) -> GroundTruthRelation | None:
        relation = None if self.relations is None else self.relations.get(image_id)
        if relation is not None and len(relation) != count:
            raise DataError(
                f"image {image_id}: the cached relations are of {len(relation)} instances, the image has {count}; "
                "build the cache again (`python -m panoptic_occ.prepare force=true`)"
            )
        return relation

    def _checked(self, result: tuple[Out | None, Iterable[Problem]]) -> Out:
        """What was read; the first fatal problem is raised, the others are counted, the first of each kind logged."""
        value, problems = result
        for problem in problems:
            if problem.fatal:
                raise DataError(str(problem))
            if not self.warnings[problem.kind]:
                log.warning("%s (further cases of '%s' are counted, not shown)", problem, problem.kind)
            self.warnings[problem.kind] += 1
        assert value is not None  # whatever cannot be read is a fatal problem
        return value


def annotated_relation(instances: Instances, panoptic: PanopticMap, match: SegmentMatch) -> GroundTruthRelation:
    """The relation that the panoptic map gives to annotated instances."""
    segment_ids = matched_segments(instances.masks, instances.labels, panoptic, match)
    return ground_truth_relation(instances.masks, segment_ids, panoptic.ids)
