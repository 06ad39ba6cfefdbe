"""The data that crosses package borders: frozen dataclasses of tensors, one image each.

All in one file, however long: this is the language that every package speaks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from panoptic_occ.structures.masks import MaskCrops

VOID_LABEL = -1


"""Contiguous label of pixels that belong to no category (and of thing pixels in a stuff-only semantic map)."""


InstanceStatus = Literal["kept", "low_score", "empty", "same_class", "duplicate", "occluded", "erased"]


@dataclass(frozen=True)
class Segment:
    """One segment of a panoptic map; ``label`` is the contiguous category, ``instance`` indexes the InstanceSet."""

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

    ``area`` of the mask; ``free``: its pixels that nobody owned; ``reclaimed`` from instances it lies above;
    ``final`` in the finished map.  ``blocker``: the instance that made it fail a check or took most of its pixels.
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
    """A panoptic segmentation: ``ids`` (0 = VOID) and the segments that those ids name."""

    ids: Int[Tensor, "h w"]
    segments: tuple[Segment, ...]
    records: tuple[InstanceRecord, ...] = ()


@dataclass(frozen=True, eq=False)
class InstanceSet:
    """Detections of one image, best score first (stable).

    masks at the resolution of the output; boxes (N,4) xyxy float in the same frame; scores (N,) in [0, 1]; labels (N,)
    contiguous thing categories.  ``soft`` (N,28,28): mask probabilities of the own class inside the box.
    ``roi_features`` (N,C,14,14): raw RoIAlign features of the base; both only when an occlusion method asks for them.
    """

    masks: MaskCrops
    boxes: Float[Tensor, "n 4"]
    scores: Float[Tensor, " n"]
    labels: Int[Tensor, " n"]
    soft: Float[Tensor, "n s s"] | None = None
    roi_features: Float[Tensor, "n c r r"] | None = None

    def __post_init__(self) -> None:
        n = len(self.scores)
        for item in fields(self):
            value = getattr(self, item.name)
            if value is not None and len(value) != n:
                raise ValueError(f"InstanceSet: {item.name} has {len(value)} entries, scores have {n}")

    @staticmethod
    def empty(size: tuple[int, int], channels: int, device: torch.device | str = "cpu") -> InstanceSet:
        """No instances of an image of ``size`` (height, width), with everything that a method may ask for."""
        none = torch.zeros(0, device=device)
        soft, features = none.view(0, 28, 28), none.view(0, channels, 14, 14)
        return InstanceSet(MaskCrops.empty(size, device), none.view(0, 4), none, none.long(), soft, features)

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, index: Tensor | Sequence[int]) -> InstanceSet:
        """The instances at ``index`` (integers, or a bool tensor), in that order."""
        chosen = torch.as_tensor(index, device=self.scores.device)
        return self._map(lambda value: value[chosen])

    def ranked(self, conf_thr: float = 0.0) -> InstanceSet:
        """Instances with ``score >= conf_thr``, by falling score; ties keep their order."""
        order = torch.argsort(self.scores, descending=True, stable=True)
        return self[order[self.scores[order] >= conf_thr]]

    def to(self, device: torch.device | str) -> InstanceSet:
        """The same instances on ``device``."""
        return self._map(lambda value: value.to(device))

    def _map(self, function: Callable[[Any], Any]) -> InstanceSet:
        present = ((item.name, getattr(self, item.name)) for item in fields(self))
        mapped: dict[str, Any] = {name: function(value) for name, value in present if value is not None}
        return replace(self, **mapped)


@dataclass(frozen=True, eq=False)
class SemanticMap:
    """What the stuff branch sees in one image, at its original size.

    ``labels``: contiguous stuff label of every pixel, ``VOID_LABEL`` where it sees a thing.  ``logits`` (only when
    asked for): class scores before the softmax; channel c is the contiguous label c + ``first_label``, and with a
    collapsed head the first channel stands for all things.  ``confidence``: by the name of a dilation, the mean
    probability of each connected component (see ``fusion.erasing``), which unknown erasing thresholds.
    """

    labels: Int[Tensor, "h w"]
    logits: Float[Tensor, "c h w"] | None = None
    first_label: int = 0
    confidence: Mapping[str, Float[Tensor, " r"]] = field(default_factory=dict)
