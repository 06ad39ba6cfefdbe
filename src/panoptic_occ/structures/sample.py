"""The data that crosses package borders: frozen dataclasses of tensors, one image each.

All in one file, however long: this is the language that every package speaks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from panoptic_occ.structures.instances import VOID_LABEL, PanopticMap, SemanticMap
from panoptic_occ.structures.masks import MaskCrops
from panoptic_occ.structures.relation import GroundTruthRelation


@dataclass(frozen=True, eq=False)
class Target:
    """Annotations of one image, all in one frame (the network input in training, the original image in evaluation).

    boxes (K,4) xyxy and labels (K,) and masks: the K non-crowd thing instances, annotated in full, so masks overlap;
    panoptic: the ground-truth map, crowds included; ``instance_ids[k]``: dataset id of annotation k; ``relation``:
    its counts come from the original image and are only re-indexed when a crop removes instances.
    """

    boxes: Float[Tensor, "k 4"]
    labels: Int[Tensor, " k"]
    masks: MaskCrops
    panoptic: PanopticMap
    relation: GroundTruthRelation
    instance_ids: Int[Tensor, " k"]

    def semantic(self) -> Int[Tensor, "h w"]:
        """Contiguous category of every pixel, ``VOID_LABEL`` where there is none (int64)."""
        ids = self.panoptic.ids.long()
        present, inverse = torch.unique(ids, return_inverse=True)
        label_of = {segment.id: segment.label for segment in self.panoptic.segments}
        labels = [label_of.get(i, VOID_LABEL) for i in present.tolist()]
        return torch.tensor(labels, dtype=torch.int64, device=ids.device)[inverse]

    def to(self, device: torch.device | str) -> Target:
        """The same target on ``device``."""
        panoptic = replace(self.panoptic, ids=self.panoptic.ids.to(device))
        return replace(
            self,
            boxes=self.boxes.to(device),
            labels=self.labels.to(device),
            masks=self.masks.to(device),
            panoptic=panoptic,
            relation=self.relation.to(device),
            instance_ids=self.instance_ids.to(device),
        )


@dataclass(frozen=True, eq=False)
class Context:
    """What an occlusion method may look at beside the detections; only what its ``requires`` names is there.

    ``image`` (3,H,W) uint8 RGB and ``semantic`` at the resolution of the masks; ``target``: the annotations.
    """

    image: Int[Tensor, "3 h w"] | None = None
    target: Target | None = None
    semantic: SemanticMap | None = None


NO_CONTEXT = Context()


@dataclass(frozen=True, eq=False)
class Sample:
    """One image as the network sees it (3,H,W uint8 RGB), the original's size (height, width), its annotations.

    ``original``: the pixels before they were resized for the network; None when they were not.
    """

    image: Int[Tensor, "3 h w"]
    image_id: int
    file_name: str
    original_size: tuple[int, int]
    target: Target | None = field(default=None)
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
        target = None if self.target is None else self.target.to(device)
        original = None if self.original is None else self.original.to(device, non_blocking=True)
        return replace(self, image=self.image.to(device, non_blocking=True), target=target, original=original)


@dataclass(frozen=True, eq=False)
class Batch:
    """Images as the network reads them: normalised, padded to one size; ``sizes`` (height, width) without padding."""

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
