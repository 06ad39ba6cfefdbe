"""Panoptic quality from counts: scores of every category and their averages (Kirillov et al. 2019, section 4.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from panoptic_occ.common.tables import percent, text_table
from panoptic_occ.metrics.pq.core import IOU_UNIT, PQCounts
from panoptic_occ.structures.categories import Categories

if TYPE_CHECKING:
    from jaxtyping import Bool


class PQScores(NamedTuple):
    """Averages over the ``n`` categories of a group that occur in the ground truth or the prediction; 0 when none does.

    The results are named tuples and not dataclasses because torchmetrics rebuilds what ``compute`` returns.
    """

    pq: float
    sq: float
    rq: float
    n: int


class ClassScores(NamedTuple):
    """Scores and counts of one category (0 when it does not occur)."""

    category_id: int
    name: str
    isthing: bool
    pq: float
    sq: float
    rq: float
    tp: int
    fp: int
    fn: int


class PQResult(NamedTuple):
    """Panoptic quality over a data set; scores are fractions in [0, 1]."""

    all: PQScores
    things: PQScores
    stuff: PQScores
    per_class: tuple[ClassScores, ...]

    def as_dict(self) -> dict[str, Any]:
        """The layout of the official tool: All, Things, Stuff, and ``per_class`` by category id."""
        groups = {"All": self.all, "Things": self.things, "Stuff": self.stuff}
        result: dict[str, Any] = {name: scores._asdict() for name, scores in groups.items()}
        result["per_class"] = {str(scores.category_id): scores._asdict() for scores in self.per_class}
        return result

    def flat(self) -> dict[str, float]:
        """PQ, SQ, RQ of all, things (``_th``) and stuff (``_st``) by name: one row of a comparison."""
        groups = {"": self.all, "_th": self.things, "_st": self.stuff}
        return {
            f"{name.upper()}{end}": getattr(scores, name)
            for end, scores in groups.items()
            for name in ("pq", "sq", "rq")
        }


def result_of(counts: PQCounts, categories: Categories) -> PQResult:
    """PQ = sum of IoU / (TP + FP/2 + FN/2), SQ = mean IoU of the TPs, RQ = F1, averaged over categories that occur."""
    tp = counts.tp.astype(np.float64)
    iou = counts.iou / IOU_UNIT
    total = tp + 0.5 * counts.fp + 0.5 * counts.fn
    some = np.maximum(total, 0.5)  # the smallest total there is, so absent categories get 0 / 0.5
    pq, sq, rq = iou / some, iou / np.maximum(tp, 1), tp / some
    isthing = np.array([category.isthing for category in categories.items])

    def mean(group: Bool[np.ndarray, " c"]) -> PQScores:
        chosen = group & (total > 0)
        n = int(chosen.sum())
        averages = np.stack((pq, sq, rq))[:, chosen].sum(axis=1) / max(n, 1)
        return PQScores(float(averages[0]), float(averages[1]), float(averages[2]), n)

    columns = (column.tolist() for column in (pq, sq, rq, counts.tp, counts.fp, counts.fn))
    per_class = tuple(
        ClassScores(category.id, category.name, category.isthing, *values)
        for category, *values in zip(categories.items, *columns, strict=True)
    )
    return PQResult(mean(np.ones_like(isthing)), mean(isthing), mean(~isthing), per_class)


def pq_table(result: PQResult) -> str:
    """PQ, SQ, RQ in percent and N, for All, Things and Stuff, and for each class below them, things first.

    A class that occurs in neither ground truth nor prediction shows '-'; it is in no average.
    """
    rows = [
        [name, percent(scores.pq), percent(scores.sq), percent(scores.rq), str(scores.n), "", "", ""]
        for name, scores in (("All", result.all), ("Things", result.things), ("Stuff", result.stuff))
    ]
    for scores in sorted(result.per_class, key=lambda scores: not scores.isthing):
        counts = (scores.tp, scores.fp, scores.fn)
        shares = [percent(value) if any(counts) else "-" for value in (scores.pq, scores.sq, scores.rq)]
        rows.append([scores.name, *shares, "", *map(str, counts)])
    return text_table(["", "PQ", "SQ", "RQ", "N", "TP", "FP", "FN"], rows, "panoptic quality")
