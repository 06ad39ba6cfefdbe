"""Relation accuracy as RAP counts it: every detection stands for an annotation, and pairs are those that the fusion
meets (Chen, "RAP", Table 4 and the released script for it)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from panoptic_occ.metrics.counting import PairMetric, share
from panoptic_occ.metrics.order.relation_accuracy import Matches
from panoptic_occ.structures.panoptic_map import InstanceRecord
from panoptic_occ.structures.relation import GroundTruthRelation, Relation

COMPARED = frozenset({"kept", "occluded", "erased"})
"""What becomes of the instances that the fusion compares with others; it drops the rest before."""


class CanvasScores(NamedTuple):
    """Fraction of the ``pairs`` of all images that are right (NaN without any)."""

    accuracy: float
    pairs: int


def canvas_counts(
    records: Sequence[InstanceRecord],
    relation: Relation,
    matches: Matches,
    target: GroundTruthRelation,
    sig_ratio: float,
) -> tuple[int, int]:
    """The pairs that the fusion meets and whose annotations have a known order in one image, and how many are right.

    ``matches``: the closest annotations; several detections may share one, and each counts.  A pair is an instance that
    passed the checks for repetitions, and one that owned pixels of it when the fusion came to it (``records[i].met``);
    it is right if the relation puts the later one above exactly when its annotation lies above.  The order of two
    annotations is that of ``relation_counts`` (majority rule, overlap ``sig_ratio``).

    Unlike ``relation_counts`` this also rates detections that fit no annotation well, and counts a pair of annotations
    as often as the fusion meets it.  Two oddities of the released script are left out: here annotation 0 counts, and a
    detection that meets no annotated box stands for none.
    """
    order = target.matrix(sig_ratio, "majority").tolist()
    if not any(entry >= 0 for row in order for entry in row):
        return 0, 0
    annotation: list[int] = (matches() if callable(matches) else matches).tolist()
    above = relation.above().tolist()
    pairs = correct = 0
    for later, record in enumerate(records):
        if record.status not in COMPARED or annotation[later] < 0:
            continue
        for earlier in record.met:
            answer = order[annotation[later]][annotation[earlier]] if annotation[earlier] >= 0 else -1
            pairs += answer >= 0
            correct += answer >= 0 and above[later][earlier] == (answer == 1)
    return pairs, correct


class CanvasAccuracy(PairMetric):
    """RAP's relation accuracy over all images, in any number of processes; ``sig_ratio`` is about annotated masks."""

    higher_is_better = True
    size = 2

    def update(
        self, records: Sequence[InstanceRecord], relation: Relation, matches: Matches, target: GroundTruthRelation
    ) -> None:
        """Adds one image; see ``canvas_counts``."""
        self.add({"counts": np.array(canvas_counts(records, relation, matches, target, self.sig_ratio))})

    def compute(self) -> CanvasScores:
        """The scores so far."""
        pairs, correct = self.counts.tolist()
        return CanvasScores(share(correct, pairs), pairs)
