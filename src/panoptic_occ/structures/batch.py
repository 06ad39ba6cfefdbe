"""Images as the network reads them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from panoptic_occ.structures.sample import Sample
from panoptic_occ.structures.target import Target

Features = dict[str, Tensor]
"""Maps of the images by name: P2..P5 under 0..3, P6 under pool, and what branches add for each other."""
Requires = frozenset[str]
"""What the base must compute on demand: ``soft``, ``roi_features``, ``semantic_logits``."""


@dataclass(frozen=True, eq=False)
class Batch:
    """Images, normalised and padded to one size; ``sizes`` (height, width) without the padding."""

    images: Float[Tensor, "b 3 h w"]
    sizes: tuple[tuple[int, int], ...]
    samples: tuple[Sample, ...]

    def __getitem__(self, index: Sequence[int]) -> Batch:
        """The images at ``index``, with the padding that they have."""
        sizes, samples = tuple(self.sizes[k] for k in index), tuple(self.samples[k] for k in index)
        return Batch(self.images[list(index)], sizes, samples)

    @property
    def targets(self) -> list[Target]:
        """The annotations of all images; ValueError where an image has none."""
        return [sample.annotations for sample in self.samples]
