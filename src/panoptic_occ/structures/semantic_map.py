"""The stuff of one image as the stuff branch sees it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from jaxtyping import Float, Int
from torch import Tensor

VOID_LABEL = -1
"""Contiguous label of pixels that belong to no category (and of thing pixels in a stuff-only semantic map)."""


@dataclass(frozen=True, eq=False)
class SemanticMap:
    """Labels and, on demand, logits of every pixel of an image, at its original size.

    ``labels``: contiguous stuff label, ``VOID_LABEL`` where the branch sees a thing.
    ``logits``: class scores before the softmax; channel c is the contiguous label c + ``first_label``, and with a
    collapsed head the first channel stands for all things.
    ``confidence``: by the name of a dilation, the mean probability of each connected component, which unknown erasing
    thresholds (see ``fusion.erasing``).
    """

    labels: Int[Tensor, "h w"]
    logits: Float[Tensor, "c h w"] | None = None
    first_label: int = 0
    confidence: Mapping[str, Float[Tensor, " r"]] = field(default_factory=dict)
