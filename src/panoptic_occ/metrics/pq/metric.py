"""Panoptic quality (Kirillov et al. 2019) of panoptic maps, equal to the official COCO evaluation; see ``pq.core``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Int, Int64
from torch import Tensor

from panoptic_occ.common.errors import DataError
from panoptic_occ.metrics.counting import CountingMetric
from panoptic_occ.metrics.pq.core import (
    PQCounts,
    SegmentMatches,
    SegmentRow,
    listed_ids,
    match_segments,
    overlap_table,
    unlisted_error,
)
from panoptic_occ.metrics.pq.pairs import maps_of_pairs
from panoptic_occ.metrics.pq.scores import PQResult, result_of
from panoptic_occ.structures.categories import Categories
from panoptic_occ.structures.panoptic_map import PanopticMap

Maps = PanopticMap | Sequence[PanopticMap] | Int[Tensor, "b h w 2"] | Int[np.ndarray, "b h w 2"]


def panoptic_counts(
    prediction: PanopticMap, target: PanopticMap, num_categories: int, source: str = "image"
) -> PQCounts:
    """Counts of one image per contiguous category; see ``panoptic_matches``."""
    return panoptic_matches(prediction, target, num_categories, source).counts(num_categories)


def panoptic_matches(
    prediction: PanopticMap, target: PanopticMap, num_categories: int, source: str = "image"
) -> SegmentMatches:
    """Which segments of one image match, by the rules of the official evaluation.

    Ground-truth areas are ``Segment.area``, predicted areas are counted.  Works on the device of ``prediction.ids``.
    ``source`` names the image in errors.  Raises DataError for maps of different sizes, predicted ids without a
    segment, predicted segments without pixels and labels outside 0 .. C-1.
    """
    if prediction.ids.shape != target.ids.shape:
        raise DataError(
            f"{source}: (height, width) of the predicted map is {tuple(prediction.ids.shape)}, of the ground truth "
            f"{tuple(target.ids.shape)}; predict at the size of the original image"
        )
    target_rows, prediction_rows = _rows(target), _rows(prediction)
    listed = listed_ids(target_rows), listed_ids(prediction_rows)
    if prediction.ids.device.type == "cpu":
        table = overlap_table(target.ids.cpu().numpy(), prediction.ids.numpy(), *listed, source)
    else:
        table = _overlap_table_torch(target.ids.to(prediction.ids.device), prediction.ids, *listed, source)
    return match_segments(table, target_rows, prediction_rows, num_categories, source)


def panoptic_quality(
    predictions: Sequence[PanopticMap], targets: Sequence[PanopticMap], categories: Categories
) -> PQResult:
    """PQ, SQ and RQ over the images, for all categories, things, stuff and each class, as fractions.

    Raises as ``panoptic_matches`` does.

    >>> import torch
    >>> from panoptic_occ import Categories, PanopticMap, Segment, panoptic_quality
    >>> categories = Categories.from_json([{"id": 1, "name": "cat", "isthing": 1}])
    >>> target = PanopticMap(torch.tensor([[7, 7, 7, 7, 0]]), (Segment(7, label=0, isthing=True, area=4),))
    >>> prediction = PanopticMap(torch.tensor([[2, 2, 2, 0, 0]]), (Segment(2, label=0, isthing=True, area=3),))
    >>> panoptic_quality([prediction], [target], categories).things
    PQScores(pq=0.75, sq=0.75, rq=1.0, n=1)
    """
    counts = PQCounts.zeros(len(categories))
    for k, (prediction, target) in enumerate(zip(predictions, targets, strict=True)):
        counts += panoptic_counts(prediction, target, len(categories), source=f"image {k}")
    return result_of(counts, categories)


class PanopticQuality(CountingMetric):
    """PQ over all images that it was shown, in any number of processes; a metric of torchmetrics.

    ``compute()`` and ``metric(...)`` give the PQ of all categories as a tensor, so that ``self.log("pq", metric)``,
    ``MetricCollection`` and ``plot()`` work; ``result()`` gives PQ, SQ and RQ of all, things, stuff and each class.
    ``return_per_class``: ``compute()`` gives the PQ of every category by its name.
    ``allow_unknown_preds_category``: of tensors of pairs, see ``update``.
    The states are integers (the IoU sum in fixed point, see ``pq.core.IOU_UNIT``) and add up, so that the result does
    not depend on the order of the images nor on how they were shared out.

    >>> import torch
    >>> from panoptic_occ import Categories, PanopticMap, PanopticQuality, Segment
    >>> metric = PanopticQuality(Categories.from_json([{"id": 1, "name": "cat", "isthing": 1}]))
    >>> target = PanopticMap(torch.tensor([[7, 7, 7, 7, 0]]), (Segment(7, label=0, isthing=True, area=4),))
    >>> prediction = PanopticMap(torch.tensor([[2, 2, 2, 0, 0]]), (Segment(2, label=0, isthing=True, area=3),))
    >>> metric.update(prediction, target)
    >>> metric.update([target], [target])
    >>> metric.compute().item()
    0.875
    >>> metric.result().all
    PQScores(pq=0.875, sq=0.875, rq=1.0, n=1)
    """

    higher_is_better = True
    plot_lower_bound = 0.0
    plot_upper_bound = 1.0

    tp: Int64[Tensor, " c"]
    fp: Int64[Tensor, " c"]
    fn: Int64[Tensor, " c"]
    iou: Int64[Tensor, " c"]
    _result: PQResult

    def __init__(
        self,
        categories: Categories,
        return_per_class: bool = False,
        allow_unknown_preds_category: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(vars(PQCounts.zeros(len(categories))), **kwargs)
        self.categories, self.return_per_class = categories, return_per_class
        self.allow_unknown_preds_category = allow_unknown_preds_category

    def update(self, preds: Maps | PQCounts, target: Maps = (), sources: str | Sequence[str] | None = None) -> None:
        """Adds one image or several, or the counts of some, which need no target.

        A tensor or numpy array (B, H, W, 2) holds the category id of the data set and the instance of every pixel, as
        in torchmetrics; ids that the categories do not have are VOID in ``target``, in ``preds`` only if the metric
        allows it.  ``sources`` names the images in errors.  Raises as ``panoptic_matches`` does, and DataError for
        other tensors and types, unknown ids and numbers of images that differ.
        """
        if isinstance(preds, PQCounts):
            self.add(vars(preds))
            return
        predictions = self._maps(preds, "preds", self.allow_unknown_preds_category)
        targets = self._maps(target, "target", unknown_is_void=True)
        if sources is None:
            sources = [f"image {k} of the batch" for k in range(len(predictions))]
        sources = [sources] if isinstance(sources, str) else sources
        if not len(predictions) == len(targets) == len(sources):
            numbers = f"{len(predictions)} preds, {len(targets)} target and {len(sources)} sources"
            raise DataError(f"{numbers}: as many of each are meant, one for every image")
        # all images are counted before any is added: a faulty one leaves the metric as it was
        counts = PQCounts.zeros(len(self.categories))
        for prediction, truth, source in zip(predictions, targets, sources, strict=True):
            counts += panoptic_counts(prediction, truth, len(self.categories), source)
        self.add(vars(counts))

    def _maps(self, maps: Maps, name: str, unknown_is_void: bool) -> Sequence[PanopticMap]:
        if isinstance(maps, np.ndarray) and maps.dtype.kind in "iu":
            maps = torch.from_numpy(maps.astype(np.int64))
        if isinstance(maps, Tensor):
            return maps_of_pairs(maps, self.categories, name, unknown_is_void)
        if isinstance(maps, PanopticMap):
            return [maps]
        what = type(maps).__name__ + (f" of {maps.dtype}" if isinstance(maps, np.ndarray) else "")
        if isinstance(maps, list | tuple):
            others = {type(part).__name__ for part in maps if not isinstance(part, PanopticMap)}
            if not others:
                return maps
            what += f" that holds a {min(others)}"
        raise DataError(
            f"{name} is a {what}; a PanopticMap, a sequence of these, or a tensor or numpy array (B, H, W, 2) of whole "
            f"numbers is meant: torch.stack({name}) makes one tensor of several"
        )

    def compute(self) -> Tensor | dict[str, Tensor]:
        """PQ so far as a fraction (float64), 0 without any category that occurs; with ``return_per_class`` of every
        category by its name, and id where several have the name."""
        self._result = result_of(PQCounts(**self.totals()), self.categories)
        if not self.return_per_class:
            return self._tensor(self._result.all.pq)
        each = self._result.per_class
        count = Counter(scores.name for scores in each)
        names = (scores.name if count[scores.name] == 1 else f"{scores.name} {scores.category_id}" for scores in each)
        return {name: self._tensor(scores.pq) for name, scores in zip(names, each, strict=True)}

    def result(self) -> PQResult:
        """All scores so far, as fractions; groups without any category that occurs have n = 0 and scores 0."""
        self.compute()  # gathers the counts of all processes, once
        return self._result

    def _tensor(self, value: float) -> Tensor:
        return torch.tensor(value, dtype=torch.float64, device=self.tp.device)

    def plot(self, val: Any = None, ax: Any = None) -> Any:
        """(figure, axes) of a value of ``compute`` or ``metric(...)``, or of a list of them; None: of all images."""
        return self._plot(val, ax)


def _rows(panoptic: PanopticMap) -> list[SegmentRow]:
    return [SegmentRow(segment.id, segment.label, segment.area, segment.iscrowd) for segment in panoptic.segments]


def _overlap_table_torch(
    target_ids: Int[Tensor, "h w"],
    prediction_ids: Int[Tensor, "h w"],
    target_listed: Int64[np.ndarray, " g"],
    prediction_listed: Int64[np.ndarray, " p"],
    source: str,
) -> Int64[np.ndarray, "g+1 p"]:
    """``pq.core.overlap_table`` as one histogram over all pixels: finding runs would wait for the device."""
    row = _positions(target_ids, target_listed)
    # predicted ids that are not listed get a column of their own, so that one copy to the host brings everything
    column = _positions(prediction_ids, prediction_listed)
    shape = (len(target_listed) + 1, len(prediction_listed) + 1)
    counts = torch.bincount(row * shape[1] + column, minlength=shape[0] * shape[1]).view(shape).cpu().numpy()
    if counts[:, -1].any():
        ids = prediction_ids.reshape(-1)[column == len(prediction_listed)]
        raise unlisted_error(ids.cpu().numpy(), prediction_listed, source)
    return np.ascontiguousarray(counts[:, :-1])


def _positions(ids: Int[Tensor, "h w"], listed: Int64[np.ndarray, " k"]) -> Int64[Tensor, " h*w"]:
    """Position of every id in ``listed``, which ascends; k where it is not listed."""
    values = ids.reshape(-1).long()
    ascending = torch.from_numpy(listed).to(values.device)
    place = torch.searchsorted(ascending, values).clamp(max=len(listed) - 1)
    return torch.where(ascending[place] == values, place, len(listed))
