"""Why an annotated thing has no match in a panoptic map: the detector, the classifier or the fusion lost it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import torch

from panoptic_occ.metrics.pq.core import SegmentMatches
from panoptic_occ.structures.instances import InstanceSet
from panoptic_occ.structures.panoptic_map import InstanceStatus, PanopticMap

Error = Literal["missed", "merged", "wrong_class", "inexact", "killed"]
ERRORS: tuple[Error, ...] = get_args(Error)
KILLED = (*(s for s in get_args(InstanceStatus) if s not in ("kept", "low_score", "empty")), "shrunk")
"""Ways in which the fusion kills a detection: the check that dropped it, or ``shrunk`` when others took its pixels."""
KILLERS = ("same_class", "other_class")


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


def _taker(prediction: PanopticMap, instances: InstanceSet, i: int) -> int | None:
    """The other instance that owns most pixels of mask ``i``; None when only stuff and void do."""
    ((window, crop),) = instances.masks[[i]]
    highest = max(s.id for s in prediction.segments)
    pixels = torch.bincount((prediction.ids[window] * crop).flatten(), minlength=highest + 1).tolist()
    others = {s.instance: pixels[s.id] for s in prediction.segments if s.instance is not None and s.instance != i}
    winner = max(others, key=others.__getitem__, default=None)
    return winner if winner is not None and others[winner] else None
