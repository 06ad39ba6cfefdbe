"""One image of a data set, and images as the network reads them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from panoptic_occ.structures.target import Target


@dataclass(frozen=True, eq=False)
class Sample:
    """One image as the network sees it (3,H,W uint8 RGB), the original's size (height, width), its annotations.

    ``original``: the pixels before they were resized for the network; None when they were not.

    >>> import torch
    >>> from panoptic_occ import Sample
    >>> image = torch.zeros(3, 4, 6, dtype=torch.uint8)
    >>> sample = Sample(image, image_id=9, file_name="9.jpg", original_size=(8, 12), original=torch.zeros(3, 8, 12))
    >>> sample.original_image.shape
    torch.Size([3, 8, 12])
    """

    image: Int[Tensor, "3 h w"]
    image_id: int
    file_name: str
    original_size: tuple[int, int]
    target: Target | None = None
    original: Int[Tensor, "3 y x"] | None = None

    @property
    def annotations(self) -> Target:
        """The target; ValueError for an image without annotations."""
        if self.target is None:
            raise ValueError(f"image {self.image_id} ({self.file_name}) has no annotations")
        return self.target

    @property
    def original_image(self) -> Int[Tensor, "3 y x"]:
        """The pixels in the frame of the masks and maps; ValueError when only the resized image was kept."""
        image = self.image if self.original is None else self.original
        if tuple(image.shape[1:]) != tuple(self.original_size):
            raise ValueError(
                f"image {self.image_id} ({self.file_name}) of {self.original_size} px was resized to "
                f"{tuple(image.shape[1:])} and its original pixels were not kept"
            )
        return image

    def to(self, device: torch.device | str) -> Sample:
        """The same sample on ``device``."""
        target = self.target and self.target.to(device)
        original = None if self.original is None else self.original.to(device, non_blocking=True)
        return replace(self, image=self.image.to(device, non_blocking=True), target=target, original=original)


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
