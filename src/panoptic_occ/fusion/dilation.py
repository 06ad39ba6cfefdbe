"""How far around a component of the stuff unknown erasing looks."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool

Shape = Literal["square", "disk"]
Stride = Literal[1, 4]


class Dilation(NamedTuple):
    """All cells within ``radius`` px of a component: in both directions (``square``) or as the crow flies (``disk``).

    ``stride``: pixels along the side of a cell; 1 for the pixels themselves, 4 for the stride of the semantic head.
    """

    radius: int
    shape: Shape = "square"
    stride: Stride = 1

    @property
    def name(self) -> str:
        """What stored confidences are kept under: ``16``, ``16_disk``, ``16_stride4``."""
        shape = "" if self.shape == "square" else f"_{self.shape}"
        return f"{self.radius}{shape}" + ("" if self.stride == 1 else f"_stride{self.stride}")

    @property
    def reach(self) -> int:
        """Cells by which a component grows in each direction, at most."""
        return self.radius // self.stride

    def grown(self, cells: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
        """``cells`` and those around them, cut at the edge."""
        from scipy import ndimage  # here: few fusions need it

        if self.shape == "disk":
            near: Bool[np.ndarray, "h w"] = ndimage.distance_transform_edt(~cells) * self.stride <= self.radius
            return near
        grown = ndimage.maximum_filter(cells.view(np.uint8), 2 * self.reach + 1, mode="constant")
        return grown.view(bool)
