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
"""Ways in which the fusion kills: the check that dropped a detection, or ``shrunk`` when others took its pixels."""
KILLERS = ("same_class", "other_class")


class Miss(NamedTuple):
    """Why a thing is missing; for a killed one also the way (KILLED) and who won, where somebody did (KILLERS)."""

    error: Error
    way: str | None = None
    killer: str | None = None


def explain_miss(
    prediction: PanopticMap, instances: InstanceSet, standing: Sequence[int], label: int, merged: bool
) -> Miss:
    """The reason for one false negative of class ``label``; the first that holds.

    ``standing``: the detections (indices of ``instances``, which the fusion made into ``prediction``) that stand for
    the thing, whatever their class.
    ``killed``: one has its class, and the fusion dropped it or gave pixels of it to others; ``inexact``: it was pasted
    whole and fits the visible part of the thing by half or less; of several the one with most pixels counts, of equals
    the better scored.  ``wrong_class``: only detections of other classes stand for it.  ``merged``: none does, and
    another thing took its place (see ``is_merged``).  ``missed``: none does.
    """
    records = prediction.records
    seen = [i for i in standing if records[i].status != "low_score"]
    own = [i for i in seen if int(instances.labels[i]) == label]
    if not own:
        return Miss("wrong_class" if seen else "merged" if merged else "missed")
    best = max(own, key=lambda i: (records[i].final, float(instances.scores[i]), -i))
    record = records[best]
    if record.status == "kept" and record.final == record.area:
        return Miss("inexact")
    way, winner = (record.status, record.blocker) if record.status != "kept" else ("shrunk", None)
    if way == "shrunk":
        winner = _taker(prediction, instances, best)
    if winner is None:
        return Miss("killed", way)
    return Miss("killed", way, KILLERS[int(instances.labels[winner]) != label])


def is_merged(matches: SegmentMatches, g: int) -> bool:
    """Whether the predicted segment with most pixels of annotated segment ``g`` has its class and matches another."""
    inter = matches.inter[g]
    if not inter.any():
        return False
    p = int(inter.argmax())
    return bool(matches.prediction.labels[p] == matches.target.labels[g] and p in matches.pairs[:, 1])


def _taker(prediction: PanopticMap, instances: InstanceSet, i: int) -> int | None:
    """The other instance that owns most pixels of mask ``i``; None when only stuff and void do."""
    ((window, crop),) = instances.masks[[i]]
    highest = max(s.id for s in prediction.segments)
    pixels = torch.bincount((prediction.ids[window] * crop).flatten(), minlength=highest + 1).tolist()
    others = {s.instance: pixels[s.id] for s in prediction.segments if s.instance is not None and s.instance != i}
    winner = max(others, key=others.__getitem__, default=None)
    return winner if winner is not None and others[winner] else None
