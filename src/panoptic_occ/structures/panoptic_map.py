"""A panoptic segmentation of one image: a map of segment ids, the segments, and what the fusion did with instances."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Int
from torch import Tensor

from panoptic_occ.structures.categories import Categories
from panoptic_occ.structures.masks import MaskCrops

if TYPE_CHECKING:
    from supervision import Detections

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

    def to_transformers(self) -> dict[str, Any]:
        """The form of ``post_process_panoptic_segmentation`` of transformers: ``segmentation`` and ``segments_info``.

        A segment has ``id``, ``label_id`` (the contiguous label), ``was_fused`` (it is stuff or a crowd), ``isthing``,
        and ``score`` where one is known.

        >>> import torch
        >>> sky = PanopticMap(torch.tensor([[1, 1, 0]]), (Segment(1, label=7, isthing=False, area=2),))
        >>> sky.to_transformers()["segments_info"]
        [{'id': 1, 'label_id': 7, 'was_fused': True, 'isthing': False}]
        """
        infos = [
            {"id": s.id, "label_id": s.label, "was_fused": not s.isthing or s.iscrowd, "isthing": s.isthing}
            | ({} if s.score is None else {"score": s.score})
            for s in self.segments
        ]
        return {"segmentation": self.ids, "segments_info": infos}

    def to_supervision(self, categories: Categories | None = None) -> Detections:
        """All segments as ``supervision.Detections``: ``class_id`` is the contiguous label, boxes are of the masks.

        ``data`` holds ``segment_id``, ``isthing``, and with ``categories`` the ``class_name``.  ``confidence`` is NaN
        where no score is known, and None where none is.  ImportError without the package supervision.
        """
        try:
            from supervision import Detections
        except ImportError as error:
            raise ImportError(
                f"to_supervision needs the package supervision ({error}); pip install supervision"
            ) from error
        ids = self.ids.cpu().numpy()
        masks = np.array([ids == segment.id for segment in self.segments], dtype=bool).reshape(-1, *ids.shape)
        scores = [segment.score for segment in self.segments]
        data: dict[str, Any] = {
            "segment_id": np.array([segment.id for segment in self.segments], dtype=np.int64),
            "isthing": np.array([segment.isthing for segment in self.segments], dtype=bool),
        }
        if categories is not None:
            data["class_name"] = np.array([categories[segment.label].name for segment in self.segments], dtype=str)
        return Detections(
            xyxy=MaskCrops.from_dense(masks).boxes.numpy(),
            mask=masks,
            confidence=None if set(scores) <= {None} else np.array(scores, dtype=np.float32),
            class_id=np.array([segment.label for segment in self.segments], dtype=np.int64),
            data=data,
        )
