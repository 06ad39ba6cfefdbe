"""What an occlusion method may look at beside the detections."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Int
from torch import Tensor

from panoptic_occ.structures.semantic_map import SemanticMap
from panoptic_occ.structures.target import Target


@dataclass(frozen=True, eq=False)
class Context:
    """Only what the method's ``requires`` names is there.

    ``image`` (3,H,W) uint8 RGB and ``semantic`` at the resolution of the masks; ``target``: the annotations.
    """

    image: Int[Tensor, "3 h w"] | None = None
    target: Target | None = None
    semantic: SemanticMap | None = None


NO_CONTEXT = Context()
