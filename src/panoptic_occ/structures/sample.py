"""One image of a data set."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Int
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
