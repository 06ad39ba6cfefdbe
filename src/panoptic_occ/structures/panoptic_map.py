"""A panoptic segmentation of one image: a map of segment ids, the segments, and what the fusion did with instances."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Int
from torch import Tensor

InstanceStatus = Literal["kept", "low_score", "empty", "same_class", "duplicate", "occluded", "erased"]


@dataclass(frozen=True)
class Segment:
    """One segment of a panoptic map; ``label`` is the contiguous category, ``instance`` indexes the InstanceSet.

    >>> from panoptic_occ import Segment
    >>> Segment(1, label=0, isthing=True, area=42, score=0.9, instance=3).iscrowd
    False
    """

    id: int
    label: int
    isthing: bool
    area: int
    iscrowd: bool = False
    score: float | None = None
    instance: int | None = None


@dataclass(frozen=True)
class InstanceRecord:
    """What the fusion did with one instance: why it was kept or dropped, and the pixels it won and lost.

    ``area``: pixels of its mask.  ``free``: those that nobody owned.  ``reclaimed``: those taken from instances it lies
    above.  ``final``: those it has in the finished map.
    ``blocker``: the instance that made it fail a check, or took most of its pixels.
    ``met``: the instances that owned pixels of its mask when it was offered, by rising index.
    """

    status: InstanceStatus
    area: int
    free: int = 0
    reclaimed: int = 0
    final: int = 0
    blocker: int | None = None
    met: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False)
class PanopticMap:
    """A panoptic segmentation: ``ids`` (0 = VOID) and the segments that those ids name.

    ``records``: of every instance that the fusion was given; none in an annotation.

    >>> import torch
    >>> from panoptic_occ import PanopticMap, Segment
    >>> sky = PanopticMap(torch.tensor([[1, 1, 0]]), (Segment(1, label=7, isthing=False, area=2),))
    >>> {segment.id: segment.label for segment in sky.segments}
    {1: 7}
    """

    ids: Int[Tensor, "h w"]
    segments: tuple[Segment, ...]
    records: tuple[InstanceRecord, ...] = ()
