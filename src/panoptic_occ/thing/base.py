"""The contract of a thing branch."""

from __future__ import annotations

from torch import Tensor, nn

from panoptic_occ.structures import Batch, InstanceSet


class ThingBranch(nn.Module):
    """Base class of thing branches; ``requires`` lists the soft outputs that the occlusion method asks for."""

    def losses(self, features: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """Named losses of the branch for a training batch."""
        raise NotImplementedError

    def detect(
        self, features: dict[str, Tensor], batch: Batch, conf_thr: float, requires: frozenset[str]
    ) -> list[InstanceSet]:
        """Detections with ``score >= conf_thr``, ranked, with masks in the frame of the original image."""
        raise NotImplementedError

    def positives(
        self, features: dict[str, Tensor], batch: Batch, requires: frozenset[str]
    ) -> list[tuple[InstanceSet, Tensor]]:
        """Positive proposals of a training batch with the index of their annotation, masks in the network's frame."""
        raise NotImplementedError
