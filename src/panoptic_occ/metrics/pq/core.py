"""Panoptic quality on plain arrays: table of overlaps, matching, counts (Kirillov et al. 2019, section 4).

The rules are those of the official COCO evaluation, its peculiarities included:

* areas of ground-truth segments are the ones their annotation states, areas of predicted segments are pixel counts;
* ``union = |p| + |g| - |p & g| - |p & void|``, and a pair of one category matches when IoU > 0.5;
* a crowd segment matches nothing and is never missed;
* an unmatched prediction is no error when more than half of it lies on VOID or on the crowd of its category (of several
  crowds, the last in the list);
* pixels whose ground-truth id is not listed are neither VOID nor any segment.

Nothing here imports torch, so that evaluation workers start fast.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from panoptic_occ.common.errors import DataError
from panoptic_occ.data.coco.panoptic_io import red_blue_swapped
from panoptic_occ.ops.segment_runs import positions, run_starts

if TYPE_CHECKING:
    from jaxtyping import Bool, Float64, Int, Int64

VOID_ID = 0

IOU_UNIT = 2**40
"""IoU sums are integers in units of 1 / IOU_UNIT: integer addition is associative, so that the result is the same bit
for bit whatever the order of the images and their distribution over processes.  The price is a rounding of at most
2^-41 per matched pair; 64 bits hold the sum of 8 million pairs."""


class SegmentRow(NamedTuple):
    """What the metric reads of a segment; ``area`` and ``iscrowd`` matter in the ground truth only."""

    id: int
    label: int
    area: float = 0
    iscrowd: bool = False


@dataclass(frozen=True, eq=False)
class PQCounts:
    """Per contiguous category: true positives, false positives, false negatives and the IoU sum in ``1 / IOU_UNIT``."""

    tp: Int64[np.ndarray, "*bins c"]
    fp: Int64[np.ndarray, "*bins c"]
    fn: Int64[np.ndarray, "*bins c"]
    iou: Int64[np.ndarray, "*bins c"]

    @staticmethod
    def zeros(num_categories: int) -> PQCounts:
        """Counts of no image."""
        return PQCounts(*np.zeros((4, num_categories), dtype=np.int64))

    def __add__(self, other: PQCounts) -> PQCounts:
        return PQCounts(self.tp + other.tp, self.fp + other.fp, self.fn + other.fn, self.iou + other.iou)


def listed_ids(rows: Iterable[SegmentRow]) -> Int64[np.ndarray, " k"]:
    """The ids of the segments and VOID, ascending: rows and columns of the overlap table."""
    return np.array(sorted({VOID_ID, *(row.id for row in rows)}), dtype=np.int64)


def overlap_table(
    target_ids: Int[np.ndarray, "h w"],
    prediction_ids: Int[np.ndarray, "h w"],
    target_listed: Int64[np.ndarray, " g"],
    prediction_listed: Int64[np.ndarray, " p"],
    source: str,
) -> Int64[np.ndarray, "g+1 p"]:
    """Pixels that each pair of ``listed_ids`` shares; the last row counts pixels whose target id is not listed.

    Panoptic maps are piecewise constant, so runs of equal pairs along the rows are found first and only those (a few
    per cent of the pixels) are looked up.  A predicted id that is not listed raises DataError.
    """
    target, prediction = target_ids.reshape(-1), prediction_ids.reshape(-1)
    starts = run_starts(target, prediction)
    lengths = np.diff(starts, append=target.size)
    run_ids = prediction[starts]
    row, row_listed = positions(target[starts], target_listed)
    column, column_listed = positions(run_ids, prediction_listed)
    if not column_listed.all():
        raise unlisted_error(run_ids[~column_listed], prediction_listed, source)
    row[~row_listed] = len(target_listed)
    shape = (len(target_listed) + 1, len(prediction_listed))
    counts = np.bincount(row * shape[1] + column, weights=lengths, minlength=shape[0] * shape[1])
    return counts.astype(np.int64).reshape(shape)


def unlisted_error(ids: np.ndarray, listed: np.ndarray, source: str) -> DataError:
    """The error for predicted ids without a segment."""
    segments, numbers = listed[listed != VOID_ID].tolist(), np.unique(ids).tolist()
    fix = f"add the segments or paint those pixels {VOID_ID} (VOID)"
    if {red_blue_swapped(number) for number in numbers} <= set(segments):
        fix = "red and blue are swapped in it: write it in the order of RGB"
    return DataError(
        f"{source}: the predicted map holds the ids {some(numbers)}, which its segments do not list "
        f"(listed: {some(segments)}); {fix}"
    )


def _columns(rows: Iterable[SegmentRow]) -> np.recarray:
    """Segments as an array with the fields of SegmentRow; of a repeated id the last entry counts."""
    fields = [("id", np.int64), ("label", np.int64), ("area", np.float64), ("iscrowd", bool)]
    return np.array(list({row.id: row for row in rows}.values()), dtype=fields).view(np.recarray)


@dataclass(frozen=True, eq=False)
class SegmentMatches:
    """Which segments of one image match; segments are numbered by their place in ``target`` and ``prediction``, arrays
    with the fields of SegmentRow.

    ``inter``: common pixels; ``pairs``: ground-truth and predicted segment of every match, ``iou`` in ``1 / IOU_UNIT``;
    ``missed`` ground-truth segments are the false negatives, ``false`` predicted ones the false positives.
    """

    target: np.recarray
    prediction: np.recarray
    inter: Int64[np.ndarray, "g p"]
    pairs: Int64[np.ndarray, "m 2"]
    iou: Int64[np.ndarray, " m"]
    missed: Bool[np.ndarray, " g"]
    false: Bool[np.ndarray, " p"]

    def counts(self, num_categories: int) -> PQCounts:
        """The counts per category."""
        matched = self.target.label[self.pairs[:, 0]]
        iou_sum = np.zeros(num_categories, dtype=np.int64)
        np.add.at(iou_sum, matched, self.iou)
        return PQCounts(
            tp=np.bincount(matched, minlength=num_categories),
            fp=np.bincount(self.prediction.label[self.false], minlength=num_categories),
            fn=np.bincount(self.target.label[self.missed], minlength=num_categories),
            iou=iou_sum,
        )


def match_segments(
    table: Int64[np.ndarray, "g+1 p"],
    target_rows: Sequence[SegmentRow],
    prediction_rows: Sequence[SegmentRow],
    num_categories: int,
    source: str,
) -> SegmentMatches:
    """Matches the segments of one image, given the overlap table of their ``listed_ids``.

    Raises DataError for a predicted segment without pixels, a label outside 0 .. C-1, and a ground-truth area that
    makes a union zero.
    """
    target, prediction = _columns(target_rows), _columns(prediction_rows)
    _check_labels("ground-truth", target, num_categories, source)
    _check_labels("predicted", prediction, num_categories, source)
    target_listed = listed_ids(target_rows)
    rows = np.searchsorted(target_listed, target.id)
    columns = np.searchsorted(listed_ids(prediction_rows), prediction.id)
    inter = table[rows[:, None], columns]
    void = table[np.searchsorted(target_listed, VOID_ID), columns]
    area = table.sum(axis=0)[columns]
    if not area.all():
        raise DataError(
            f"{source}: the predicted segments {some(prediction.id[area == 0].tolist())} have no pixel in the map; "
            "drop segments without pixels"
        )
    iou = _iou(inter, area, target, prediction, void, source)
    matched = iou > 0.5
    ignored = (void + _crowd(inter, target, prediction)) / area > 0.5
    return SegmentMatches(
        target,
        prediction,
        inter,
        pairs=np.argwhere(matched),
        iou=np.rint(iou[matched] * IOU_UNIT).astype(np.int64),
        missed=~matched.any(axis=1) & ~target.iscrowd,
        false=~matched.any(axis=0) & ~ignored,
    )


def _iou(
    inter: np.ndarray, area: np.ndarray, target: np.recarray, prediction: np.recarray, void: np.ndarray, source: str
) -> Float64[np.ndarray, "g p"]:
    """IoU of the pairs that may match (they meet, one category, no crowd), 0 elsewhere."""
    may_match = (inter > 0) & (target.label[:, None] == prediction.label[None, :]) & ~target.iscrowd[:, None]
    union = target.area[:, None] + area[None, :] - inter - void[None, :]
    if (may_match & (union == 0)).any():
        k = (may_match & (union == 0)).any(axis=1).argmax()
        raise DataError(
            f"{source}: ground-truth segment {target.id[k]} has area {target.area[k]:g}, which leaves a union of 0 "
            "pixels with a prediction on it; correct the area in the annotation"
        )
    iou: np.ndarray = np.divide(inter, union, out=np.zeros(inter.shape), where=may_match)
    return iou


def _crowd(inter: np.ndarray, target: np.recarray, prediction: np.recarray) -> Int64[np.ndarray, " p"]:
    """Pixels of each prediction on the crowd segment of its category (the last listed one)."""
    crowds = target.iscrowd.nonzero()[0]
    crowd_of = dict(zip(target.label[crowds].tolist(), crowds.tolist(), strict=True))
    rows = [crowd_of.get(label) for label in prediction.label.tolist()]
    counts = [0 if row is None else int(inter[row, column]) for column, row in enumerate(rows)]
    return np.array(counts, dtype=np.int64)


def _check_labels(what: str, columns: np.recarray, num_categories: int, source: str) -> None:
    wrong = (columns.label < 0) | (columns.label >= num_categories)
    if wrong.any():
        k = int(wrong.argmax())
        raise DataError(
            f"{source}: {what} segment {columns.id[k]} has the unknown category label {columns.label[k]}; allowed: "
            f"0 .. {num_categories - 1}"
        )


def some(ids: Sequence[object], limit: int = 10) -> str:
    """The first of ``ids`` as words of an error message."""
    more = f" and {len(ids) - limit} more" if len(ids) > limit else ""
    return (", ".join(map(str, ids[:limit])) or "(none)") + more
