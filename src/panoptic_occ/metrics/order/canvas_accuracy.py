"""Relation accuracy as RAP counts it: every detection stands for an annotation, and pairs are those that the fusion
meets (Chen, "RAP", Table 4 and the released script for it)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Int64
from torch import Tensor
from torchmetrics import Metric

from panoptic_occ.metrics.order.relation_accuracy import Matches
from panoptic_occ.structures.panoptic_map import InstanceRecord
from panoptic_occ.structures.relation import GroundTruthRelation, Relation

OFFERED = frozenset({"kept", "occluded", "erased"})
"""What becomes of instances that take part: the others were left out before anybody asked who lies in front."""


class CanvasCounts(NamedTuple):
    """Pairs that the fusion meets and whose annotations have a known order, and how many are right."""

    pairs: int
    correct: int


class CanvasScores(NamedTuple):
    """Fraction of the ``pairs`` of all images that are right (NaN without any)."""

    accuracy: float
    pairs: int


def canvas_counts(
    records: Sequence[InstanceRecord],
    relation: Relation,
    matches: Matches | Callable[[], Matches],
    target: GroundTruthRelation,
    sig_ratio: float,
) -> CanvasCounts:
    """Compares a relation with the annotated order of one image, pair by pair of ``records[i].met``.

    ``matches[n]``: index of the annotation that is closest to detection n, -1 without any; several detections may share
    one, and count each; or a function that finds them, called only if the order of any pair is known.  A pair is an
    instance that passed the checks for repetitions, and one that owned pixels of it when it was offered; it is right if
    the relation puts the later one above exactly when its annotation lies above.  The order of two annotations is that
    of ``relation_counts`` (majority rule, overlap ``sig_ratio``).
    Beside it this rates detections that stand for no annotation well, the same pair of annotations several times, and
    none that the fusion never compares.  Of the released script, two oddities are left out: annotation 0 counts, and a
    detection that meets no annotated box stands for none.
    """
    order = target.matrix(sig_ratio, "majority").tolist()
    if not any(entry >= 0 for row in order for entry in row):
        return CanvasCounts(0, 0)
    own: list[int] = (matches() if callable(matches) else matches).tolist()
    above = relation.above().tolist()
    pairs = correct = 0
    for later, record in enumerate(records):
        if record.status not in OFFERED or own[later] < 0:
            continue
        for earlier in record.met:
            known = order[own[later]][own[earlier]] if own[earlier] >= 0 else -1
            pairs += known >= 0
            correct += known >= 0 and above[later][earlier] == (known == 1)
    return CanvasCounts(pairs, correct)


class CanvasAccuracy(Metric):
    """RAP's relation accuracy over all images, in any number of processes (the states are counts).

    ``sig_ratio``: annotated pairs need an intersection of this share of one of the two masks.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    counts: Int64[Tensor, " k"]

    def __init__(self, sig_ratio: float = 0.2, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.sig_ratio = sig_ratio
        self.add_state("counts", torch.zeros(len(CanvasCounts._fields), dtype=torch.int64), dist_reduce_fx="sum")

    def update(
        self,
        records: Sequence[InstanceRecord],
        relation: Relation,
        matches: Matches | Callable[[], Matches],
        target: GroundTruthRelation,
    ) -> None:
        """Adds one image; see ``canvas_counts``."""
        counts = canvas_counts(records, relation, matches, target, self.sig_ratio)
        self.counts += torch.tensor(counts, device=self.counts.device)

    def compute(self) -> CanvasScores:
        """The scores so far."""
        counts = CanvasCounts(*self.counts.tolist())
        return CanvasScores(counts.correct / counts.pairs if counts.pairs else float("nan"), counts.pairs)
