"""Where the panoptic quality of things is won and lost: by overlap, size and neighbours, and why things are missed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from jaxtyping import Int64

from panoptic_occ.common.errors import ConfigError
from panoptic_occ.common.tables import comparison_table
from panoptic_occ.metrics.counting import CountingMetric
from panoptic_occ.metrics.pq.core import PQCounts, SegmentMatches
from panoptic_occ.metrics.pq.metric import panoptic_matches
from panoptic_occ.metrics.pq.scores import result_of
from panoptic_occ.ops.matching import mask_iou
from panoptic_occ.ops.segment_matching import match_by_share
from panoptic_occ.structures.categories import Categories
from panoptic_occ.structures.instances import InstanceSet
from panoptic_occ.structures.masks import MaskCrops, PairStats
from panoptic_occ.structures.panoptic_map import InstanceStatus, PanopticMap
from panoptic_occ.structures.target import Target

GROUPS = {
    "overlap": ("0", "to .2", "to .5", "above .5"),
    "size": ("small", "medium", "large"),
    "neighbours": ("0", "1", "2", "3 or more"),
}
"""Properties of a thing and their bins: the largest share of its mask that another thing covers (an upper limit belongs
to its bin), the pixels of its mask, and the number of its neighbours, which overlap with it significantly."""
BINS = tuple((group, name) for group, names in GROUPS.items() for name in names)
OVERLAPS = (0.0, 0.2, 0.5)
MATCH_IOU = 0.5
Error = Literal["missed", "merged", "wrong_class", "inexact", "killed"]
ERRORS: tuple[Error, ...] = get_args(Error)
KILLED = (*(s for s in get_args(InstanceStatus) if s not in ("kept", "low_score", "empty")), "shrunk")
"""Ways in which the fusion kills a detection: the check that dropped it, or ``shrunk`` when others took its pixels."""
KILLERS = ("same_class", "other_class")
_FIRST = np.cumsum([0, *(len(names) for names in GROUPS.values())])[:-1]


@dataclass(frozen=True)
class Binning:
    """Sorts things into BINS.  ``sizes``: sides in pixels of the squares from whose area on a thing is medium and large
    (COCO's by default); ``sig_ratio``: overlap, as a share of one of two masks, that makes them neighbours.
    Raises ConfigError for other sizes than two rising ones."""

    sizes: tuple[float, ...] = (32, 96)
    sig_ratio: float = 0.2

    def __post_init__(self) -> None:
        if len(self.sizes) != 2 or not 0 < self.sizes[0] < self.sizes[1]:
            raise ConfigError(f"data.object_sizes={list(self.sizes)}: must be two rising sides in pixels, as [32, 96]")

    def __call__(self, stats: PairStats) -> Int64[np.ndarray, "n 3"]:
        """Index into BINS of every mask by overlap, size and neighbours, each among the masks of ``stats``."""
        covered = stats.ratio().cpu().numpy().max(axis=1, initial=0)
        neighbours = stats.significant(self.sig_ratio).sum(dim=1).cpu().numpy()
        columns = (
            np.searchsorted(OVERLAPS, covered),
            np.searchsorted([side**2 for side in self.sizes], stats.area.cpu().numpy(), side="right"),
            np.minimum(neighbours, len(GROUPS["neighbours"]) - 1),
        )
        return np.stack(columns, axis=1) + _FIRST


@dataclass(frozen=True, eq=False)
class AnnotatedThings:
    """The K things of one annotated image: its instances, and thing segments without one, of which only the visible
    pixels are known.

    ``thing_of``: index of the thing by the id of its panoptic segment; ``bins`` see Binning; ``matches``: the thing
    that has the largest mask IoU with each detection, -1 below one half.
    """

    panoptic: PanopticMap
    thing_of: dict[int, int]
    bins: Int64[np.ndarray, "k 3"]
    matches: Int64[np.ndarray, " n"]

    @staticmethod
    def of(target: Target, detections: MaskCrops, binning: Binning) -> AnnotatedThings:
        """The things that all maps of one image are compared with; ``detections`` are ranked, and a map may be made of
        the first ones only."""
        target = target.to("cpu")
        segments = match_by_share(target.masks, target.labels, target.panoptic).tolist()
        alone = [s.id for s in target.panoptic.segments if s.isthing and not s.iscrowd and s.id not in segments]
        visible = MaskCrops.from_dense(target.panoptic.ids == torch.tensor(alone, dtype=torch.int64)[:, None, None])
        masks = MaskCrops(
            torch.cat([target.masks.pixels, visible.pixels]),
            torch.cat([target.masks.windows, visible.windows]),
            target.masks.size,
        )
        thing_of = {number: k for k, number in enumerate([*segments, *alone]) if number}
        matches = np.full(len(detections), -1)
        if len(masks):
            iou = mask_iou(detections.to("cpu"), masks, MATCH_IOU).numpy()
            matches = np.where(iou.max(axis=1) >= MATCH_IOU, iou.argmax(axis=1), -1)
        return AnnotatedThings(target.panoptic, thing_of, binning(PairStats.of(masks)), matches)


class Miss(NamedTuple):
    """Why a thing is missing; for a killed one also the way (KILLED) and the class of the winner, if any (KILLERS)."""

    error: Error
    way: str | None = None
    killer: str | None = None


def explain_miss(
    prediction: PanopticMap, instances: InstanceSet, detections: Sequence[int], label: int, merged: bool
) -> Miss:
    """The reason for one false negative of class ``label``: the first that holds.

    ``detections``: indices of the ``instances`` that match the thing, whatever their class; the fusion made
    ``prediction`` of all instances.  Those of a score too low for the fusion do not count.
    ``killed``: a detection has the thing's class, and the fusion dropped it or gave pixels of it to others.
    ``inexact``: it was pasted whole and fits the visible part of the thing by half or less; of several the one with
    most pixels counts, of equals the one of higher score.  ``wrong_class``: all detections have other classes.
    ``merged``: there is none, and another thing took the thing's place (see ``is_merged``).  ``missed``: there is none.
    """
    records = prediction.records
    detections = [i for i in detections if records[i].status != "low_score"]
    same_class = [i for i in detections if int(instances.labels[i]) == label]
    if not same_class:
        return Miss("wrong_class" if detections else "merged" if merged else "missed")
    best = max(same_class, key=lambda i: (records[i].final, float(instances.scores[i]), -i))
    record = records[best]
    if record.status == "kept" and record.final == record.area:
        return Miss("inexact")
    if record.status == "kept":
        way, winner = "shrunk", _taker(prediction, instances, best)
    else:
        way, winner = record.status, record.blocker
    return Miss("killed", way, None if winner is None else KILLERS[int(instances.labels[winner]) != label])


def is_merged(matches: SegmentMatches, g: int) -> bool:
    """Whether the predicted segment with most pixels of annotated segment ``g`` has its class and matches another."""
    inter = matches.inter[g]
    if not inter.any():
        return False
    p = int(inter.argmax())
    return bool(matches.prediction.label[p] == matches.target.label[g] and p in matches.pairs[:, 1])


@dataclass(frozen=True, eq=False)
class BreakdownCounts(PQCounts):
    """Counts of things by bin and category (B,C), ``errors`` among the false negatives of a bin, the killed ones by way
    and by killer (see ``Miss``)."""

    errors: Int64[np.ndarray, "b e"]
    killed: Int64[np.ndarray, " w"]
    killers: Int64[np.ndarray, " 2"]

    @staticmethod
    def zeros(num_categories: int) -> BreakdownCounts:
        """Counts of no image."""
        shapes = *[(len(BINS), num_categories)] * 4, (len(BINS), len(ERRORS)), (len(KILLED),), (len(KILLERS),)
        return BreakdownCounts(*(np.zeros(shape, dtype=np.int64) for shape in shapes))


class BinScores(NamedTuple):
    """PQ, SQ and RQ of the things in one bin, averaged over the classes that occur there, and their counts."""

    pq: float
    sq: float
    rq: float
    tp: int
    fp: int
    fn: int
    errors: dict[str, int]


class BreakdownResult(NamedTuple):
    """All bins by group and name, and the reasons for all false negatives: ``errors`` add up to ``fn``, ``killed`` to
    its killed ones."""

    groups: dict[str, dict[str, BinScores]]
    fn: int
    errors: dict[str, int]
    killed: dict[str, int]
    killers: dict[str, int]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, bins by group and name."""
        groups = {group: {name: b._asdict() for name, b in bins.items()} for group, bins in self.groups.items()}
        return {**groups, "fn": self.fn, "errors": self.errors, "killed": self.killed, "killers": self.killers}


class Breakdown(CountingMetric):
    """The breakdown over all images, in any number of processes; the states are those of BreakdownCounts."""

    higher_is_better = None

    def __init__(self, categories: Categories, binning: Binning | None = None, **kwargs: Any) -> None:
        super().__init__(vars(BreakdownCounts.zeros(len(categories))), **kwargs)
        self.categories = categories
        self.binning = binning or Binning()

    def update(
        self, prediction: PanopticMap, instances: InstanceSet, stats: PairStats, annotated: AnnotatedThings
    ) -> None:
        """Adds one image whose ``instances`` the fusion made into ``prediction``; the rules are those of PQ.

        Matches and false negatives count in the bins of the annotated thing, false positives in those of the predicted
        one, measured by the whole masks of the instances that the map shows.
        """
        matches = panoptic_matches(prediction, annotated.panoptic, len(self.categories))
        counts = BreakdownCounts.zeros(len(self.categories))
        target, predicted = matches.target, matches.prediction
        things = np.array([annotated.thing_of.get(number, -1) for number in target.id.tolist()], dtype=np.int64)
        for (g, _), iou in zip(matches.pairs.tolist(), matches.iou.tolist(), strict=True):
            if things[g] >= 0:
                counts.tp[annotated.bins[things[g]], target.label[g]] += 1
                counts.iou[annotated.bins[things[g]], target.label[g]] += iou
        for g in (matches.missed & (things >= 0)).nonzero()[0].tolist():
            bins, label = annotated.bins[things[g]], int(target.label[g])
            detections = (annotated.matches[: len(instances)] == things[g]).nonzero()[0].tolist()
            miss = explain_miss(prediction, instances, detections, label, is_merged(matches, g))
            counts.fn[bins, label] += 1
            counts.errors[bins, ERRORS.index(miss.error)] += 1
            if miss.way is not None:
                counts.killed[KILLED.index(miss.way)] += 1
            if miss.killer is not None:
                counts.killers[KILLERS.index(miss.killer)] += 1
        bins_of = _segment_bins(prediction, stats, self.binning)
        for p in matches.false.nonzero()[0].tolist():
            if (number := int(predicted.id[p])) in bins_of:
                counts.fp[bins_of[number], predicted.label[p]] += 1
        self.add(vars(counts))

    def compute(self) -> BreakdownResult:
        """The scores so far."""
        counts = BreakdownCounts(**self.totals())
        groups: dict[str, dict[str, BinScores]] = {group: {} for group in GROUPS}
        for b, (group, name) in enumerate(BINS):
            table = PQCounts(counts.tp[b], counts.fp[b], counts.fn[b], counts.iou[b])
            pq, sq, rq, _ = result_of(table, self.categories).things
            tp, fp, fn = (int(part.sum()) for part in (table.tp, table.fp, table.fn))
            groups[group][name] = BinScores(pq, sq, rq, tp, fp, fn, _named(ERRORS, counts.errors[b]))
        first = slice(0, len(GROUPS["overlap"]))  # every group holds all things
        return BreakdownResult(
            groups,
            fn=int(counts.fn[first].sum()),
            errors=_named(ERRORS, counts.errors[first].sum(axis=0)),
            killed=_named(KILLED, counts.killed),
            killers=_named(KILLERS, counts.killers),
        )


def breakdown_tables(results: Mapping[str, BreakdownResult]) -> list[str]:
    """PQ of things in every bin, a table for each property, and one of the reasons for false negatives.

    Below the heads stands how many things are annotated in each bin, which is the same for every order.
    """
    tables = []
    for group in dict.fromkeys(group for result in results.values() for group in result.groups):
        rows: dict[str, dict[str, float]] = {"annotated": {}}
        for order, result in results.items():
            bins = result.groups[group].items()
            rows["annotated"] = {name: scores.tp + scores.fn for name, scores in bins}
            rows[order] = {name: b.pq if b.tp + b.fp + b.fn else math.nan for name, b in bins}
        tables.append(comparison_table(rows, f"PQ of things by {group}"))
    reasons = {
        order: {"FN": result.fn, **result.errors, **{f"killed: {way}": n for way, n in result.killed.items()}}
        for order, result in results.items()
    }
    return [*tables, comparison_table(reasons, "annotated things without a match")]


def _taker(prediction: PanopticMap, instances: InstanceSet, i: int) -> int | None:
    """The other instance that owns most pixels of mask ``i``; None when only stuff and void do."""
    ((window, crop),) = instances.masks[[i]]
    highest = max(s.id for s in prediction.segments)
    pixels = torch.bincount((prediction.ids[window] * crop).flatten(), minlength=highest + 1).tolist()
    others = {s.instance: pixels[s.id] for s in prediction.segments if s.instance is not None and s.instance != i}
    winner = max(others, key=others.__getitem__, default=None)
    return winner if winner is not None and others[winner] else None


def _segment_bins(prediction: PanopticMap, stats: PairStats, binning: Binning) -> dict[int, Int64[np.ndarray, " 3"]]:
    """Bins of every thing segment of a map, by its id."""
    instance_of = {s.id: s.instance for s in prediction.segments if s.instance is not None}
    index = torch.tensor(list(instance_of.values()), dtype=torch.int64, device=stats.area.device)
    bins = binning(PairStats(stats.area[index], stats.inter[index][:, index]))
    return dict(zip(instance_of, bins, strict=True))


def _named(names: tuple[str, ...], counts: Int64[np.ndarray, " n"]) -> dict[str, int]:
    return dict(zip(names, counts.tolist(), strict=True))
