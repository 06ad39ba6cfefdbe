"""Detections of one image, as every package passes them on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from panoptic_occ.structures.masks import MaskCrops


@dataclass(frozen=True, eq=False)
class InstanceSet:
    """N detections of one image, best score first (stable).

    ``masks`` at the resolution of the output; ``boxes`` xyxy in px of the same frame; ``scores`` in [0, 1]; ``labels``:
    contiguous thing categories.  Only when an occlusion method asks for them: ``soft`` (N,28,28), mask probabilities of
    the predicted class inside the box, and ``roi_features`` (N,C,14,14), raw RoIAlign features of the base.
    Raises ValueError when the lengths differ, and for masks that are no crops.

    >>> import torch
    >>> from panoptic_occ import InstanceSet, MaskCrops
    >>> masks = MaskCrops.from_dense(torch.ones(2, 4, 4).bool())
    >>> pair = InstanceSet(masks, masks.boxes, scores=torch.tensor([0.4, 0.9]), labels=torch.tensor([0, 1]))
    >>> pair.ranked(conf_thr=0.3).labels.tolist()
    [1, 0]
    """

    masks: MaskCrops
    boxes: Float[Tensor, "n 4"]
    scores: Float[Tensor, " n"]
    labels: Int[Tensor, " n"]
    soft: Float[Tensor, "n s s"] | None = None
    roi_features: Float[Tensor, "n c r r"] | None = None

    def __post_init__(self) -> None:
        masks: object = self.masks
        if not isinstance(masks, MaskCrops):
            kind = type(masks).__name__
            raise ValueError(f"InstanceSet: masks is a {kind}; crops are meant: MaskCrops.from_dense(masks)")
        for name, value in vars(self).items():
            if value is not None and len(value) != len(self):
                raise ValueError(f"InstanceSet: {name} has {len(value)} entries, scores have {len(self)}")

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
        index = torch.as_tensor(index, device=self.scores.device)
        return self._map(lambda value: value[index])

    def ranked(self, conf_thr: float = 0.0) -> InstanceSet:
        """Instances with ``score >= conf_thr``, by falling score; ties keep their order."""
        order = by_score(self.scores)
        return self[order[self.scores[order] >= conf_thr]]

    def to(self, device: torch.device | str) -> InstanceSet:
        """The same instances on ``device``."""
        return self._map(lambda value: value.to(device))

    def _map(self, function: Callable[[Any], Any]) -> InstanceSet:
        return replace(self, **{name: function(value) for name, value in vars(self).items() if value is not None})


def by_score(scores: Float[Tensor, " n"]) -> Int[Tensor, " n"]:
    """Indices by falling score; ties keep their order."""
    return torch.argsort(scores, descending=True, stable=True)
