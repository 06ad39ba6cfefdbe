"""The contract of a stuff branch."""

from __future__ import annotations

from jaxtyping import Int
from torch import Tensor, nn

from panoptic_occ.structures import Batch


class StuffBranch(nn.Module):
    """Base class of stuff branches."""

    def losses(self, features: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """Named losses of the branch for a training batch."""
        raise NotImplementedError

    def label_maps(self, features: dict[str, Tensor], batch: Batch) -> list[Int[Tensor, "h w"]]:
        """Per image, in its original frame: contiguous stuff label of each pixel, ``VOID_LABEL`` where none."""
        raise NotImplementedError
