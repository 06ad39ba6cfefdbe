"""Resize, flip and crop that keep image, masks, boxes, panoptic ids and relations of a sample in step.

Resize by nearest neighbour, flip and crop are all separable: each is one list of source rows and one of source columns.
A ``Grid`` holds the two lists for the whole chain, so masks and panoptic ids are read once, from the same pixels, and
cannot drift apart; the image goes through torchvision's kernels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
import torch
from annotated_types import Interval, MinLen
from jaxtyping import Int
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from panoptic_occ.common.errors import ConfigError
from panoptic_occ.common.kinds import Count, Positive, Share
from panoptic_occ.ops.segment_runs import unique_counts
from panoptic_occ.structures.masks import MaskCrops, PairStats
from panoptic_occ.structures.panoptic_map import PanopticMap
from panoptic_occ.structures.sample import Sample
from panoptic_occ.structures.target import Target

Size = tuple[int, int]
Part = Annotated[float, Interval(gt=0, le=1)]


@dataclass(frozen=True)
class TrainTransform:
    """Random resize, horizontal flip and crop of a sample, in that order.

    Either one of the lengths ``short_edge`` (px) is drawn for the shorter edge, with ``max_edge`` as limit of the
    longer one; or one factor for both edges is drawn evenly between the two of ``scale``.  ``crop`` (height, width):
    two integers are pixels, at most those of the image; two floats in (0, 1] are shares of the resized image.  Without
    ``resize`` the image keeps its size: what learns from annotations alone meets predicted masks in the frame of the
    original.  ConfigError for settings that contradict each other.
    """

    short_edge: Annotated[Sequence[Count], MinLen(1)] | None = None
    max_edge: Count | None = None
    flip: Share = 0.5
    crop: tuple[Count, Count] | tuple[Part, Part] | None = None
    resize: bool = True
    scale: tuple[Positive, Positive] | None = None

    def __post_init__(self) -> None:
        if self.scale is None:
            if self.short_edge is None or self.max_edge is None:
                raise ConfigError("set short_edge and max_edge, like [800] and 1333, or scale, like [0.5, 2.0]")
            _check_edges(max(self.short_edge), self.max_edge)
        elif self.scale[0] > self.scale[1]:
            raise ConfigError(f"scale: {list(self.scale)} is not usable; give [low, high] with low <= high")
        elif self.short_edge is not None or self.max_edge is not None:
            raise ConfigError(
                f"scale: {list(self.scale)} together with short_edge={self.short_edge}, max_edge={self.max_edge}; set "
                "scale=null, or both others to null"
            )
        for name in ("short_edge", "crop", "scale"):  # out of Hydra's slow list type
            if (values := getattr(self, name)) is not None:
                object.__setattr__(self, name, tuple(values))

    def __call__(self, sample: Sample, seed: int) -> Sample:
        """The transformed sample; the same sample and ``seed`` always give the same result."""
        generator = torch.Generator().manual_seed(seed)
        size = sample.image.shape[-2], sample.image.shape[-1]
        new_size = self._draw_size(size, generator)  # drawn in any case: the other random numbers do not depend on it
        resized = new_size if self.resize else size
        flip = bool(torch.rand((), generator=generator) < self.flip)
        window = None if self.crop is None else _draw_window(resized, self.crop, generator)
        image = _resize(sample.image, resized)
        if flip:
            image = tv.horizontal_flip(image)
        if window is not None:
            image = tv.crop(image, *window)
        target = sample.target
        if target is not None:
            target = transform_target(target, Grid.of(size, resized, flip, window), cropped=window is not None)
        return replace(sample, image=image.contiguous(), target=target)

    def _draw_size(self, size: Size, generator: torch.Generator) -> Size:
        if self.scale is not None:
            low, high = self.scale
            factor = low + (high - low) * float(torch.rand((), generator=generator))
            height, width = (max(int(factor * edge + 0.5), 1) for edge in size)
            return height, width
        assert self.short_edge is not None and self.max_edge is not None
        short_edge = self.short_edge[int(torch.randint(len(self.short_edge), (), generator=generator))]
        return resized_size(size, short_edge, self.max_edge)


@dataclass(frozen=True)
class EvalTransform:
    """Resize of the image only; the target stays in the frame of the original image, where predictions are compared.

    The pixels of the original stay with the sample where they were resized: some occlusion methods look at them.
    """

    short_edge: Count
    max_edge: Count

    def __post_init__(self) -> None:
        _check_edges(self.short_edge, self.max_edge)

    def __call__(self, sample: Sample, seed: int = 0) -> Sample:
        """The sample with its image resized; ``seed`` is accepted like in training and changes nothing."""
        size = sample.image.shape[-2], sample.image.shape[-1]
        resized = _resize(sample.image, resized_size(size, self.short_edge, self.max_edge))
        original = None if resized.shape == sample.image.shape else sample.image.contiguous()
        return replace(sample, image=resized.contiguous(), original=original)


def resized_size(size: Size, short_edge: int, max_edge: int) -> Size:
    """(height, width) after scaling the shorter edge to ``short_edge`` px, or the longer one to ``max_edge`` if that is
    less; fractions are rounded to the nearest integer as in Detectron2 (torchvision truncates: 1066, not 1067)."""
    height, width = size
    scale = short_edge / min(size)
    new = (float(short_edge), scale * width) if height < width else (scale * height, float(short_edge))
    if max(new) > max_edge:
        scale = max_edge / max(new)
        new = (new[0] * scale, new[1] * scale)
    return max(int(new[0] + 0.5), 1), max(int(new[1] + 0.5), 1)


@dataclass(frozen=True, eq=False)
class Grid:
    """For every row and column of the new frame the row and column of the old frame that it shows."""

    rows: Int[np.ndarray, " h"]
    columns: Int[np.ndarray, " w"]

    @staticmethod
    def of(size: Size, resized: Size, flip: bool, window: tuple[int, int, int, int] | None) -> Grid:
        """The grid of a resize, then a flip, then a crop to ``window`` (top, left, height, width)."""
        rows, columns = (_nearest(old, new) for old, new in zip(size, resized, strict=True))
        if flip:
            columns = columns[::-1]
        if window is not None:
            top, left, height, width = window
            rows, columns = rows[top : top + height], columns[left : left + width]
        return Grid(rows, columns)

    def masks(self, masks: MaskCrops) -> MaskCrops:
        """``masks`` in the new frame, each with the tightest crop; a mask that vanished becomes 0x0 px."""
        crops, corners = [], []
        for (ys, xs), crop in masks:
            # rows rise and columns rise or fall, so what a crop covers of the new frame is one run of each
            new_y = np.flatnonzero((self.rows >= ys.start) & (self.rows < ys.stop))
            new_x = np.flatnonzero((self.columns >= xs.start) & (self.columns < xs.stop))
            # numpy, because its calls cost a third of torch's, and there are many small crops
            pixels = _take(crop.numpy(), self.rows[new_y] - ys.start, self.columns[new_x] - xs.start)
            rows, columns = np.flatnonzero(pixels.any(axis=1)), np.flatnonzero(pixels.any(axis=0))
            if len(rows) == 0:
                crops.append(crop[:0, :0])
                corners.append((0, 0))
                continue
            tight = pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            crops.append(torch.from_numpy(tight))
            corners.append((int(new_y[rows[0]]), int(new_x[columns[0]])))
        return MaskCrops.from_crops(crops, corners, (len(self.rows), len(self.columns)))

    def ids(self, ids: Int[Tensor, "h w"]) -> Int[Tensor, "h w"]:
        """Panoptic ids in the new frame."""
        return torch.from_numpy(_take(ids.numpy(), self.rows, self.columns))


def _take(pixels: np.ndarray, rows: Int[np.ndarray, " h"], columns: Int[np.ndarray, " w"]) -> np.ndarray:
    """``pixels[rows][:, columns]``; rows are copied whole, columns number by number, so from the fewer rows."""
    if len(rows) > len(pixels):
        return pixels.take(columns, axis=1).take(rows, axis=0)
    return pixels.take(rows, axis=0).take(columns, axis=1)


def transform_target(target: Target, grid: Grid, cropped: bool) -> Target:
    """The annotations in the frame of ``grid``: instances and segments without pixels are removed, boxes are the
    tight boxes of the masks, and relations are re-indexed.

    The counts of the relation stay those of the original image, so that resizing never changes who is in front; but
    in a crop, a pair whose visible masks no longer meet gets inter = own = 0 and so is never significant.
    """
    masks = grid.masks(target.masks)
    keep = masks.area > 0
    masks = masks[keep]
    relation = target.relation[keep.nonzero().flatten()]
    if cropped:
        meet = PairStats.of(masks).inter > 0
        relation = replace(relation, inter=relation.inter * meet, visible=relation.visible * meet)
    return Target(
        boxes=masks.boxes.to(target.boxes.dtype),
        labels=target.labels[keep],
        masks=masks,
        panoptic=_transform_panoptic(target.panoptic, grid),
        relation=relation,
        instance_ids=target.instance_ids[keep],
    )


def _transform_panoptic(panoptic: PanopticMap, grid: Grid) -> PanopticMap:
    ids = grid.ids(panoptic.ids)
    present, counts = unique_counts(ids.numpy())
    area = dict(zip(present.tolist(), counts.tolist(), strict=True))
    segments = (replace(segment, area=area[segment.id]) for segment in panoptic.segments if segment.id in area)
    return replace(panoptic, ids=ids, segments=tuple(segments))


def _nearest(old: int, new: int) -> Int[np.ndarray, " new"]:
    """Source index of each of ``new`` cells along an edge of ``old`` px, by torch's own kernel.

    The ``exact`` rule compares pixel centres, as the bilinear resize of the image does; the legacy rule would shift the
    masks against the image by up to half a pixel.
    """
    if old == new:
        return np.arange(old)
    index = torch.arange(old, dtype=torch.float32)[None, None]
    return torch.nn.functional.interpolate(index, size=new, mode="nearest-exact")[0, 0].long().numpy()


def _resize(image: Tensor, size: Size) -> Tensor:
    """``image`` at ``size``; untouched, bit by bit, when it already has that size."""
    if tuple(image.shape[-2:]) == size:
        return image
    return tv.resize(image, list(size), antialias=True)


def _draw_window(
    size: Size, crop: Sequence[int] | Sequence[float], generator: torch.Generator
) -> tuple[int, int, int, int]:
    lengths = [
        min(edge, part) if isinstance(part, int) else max(int(edge * part + 0.5), 1)
        for edge, part in zip(size, crop, strict=True)
    ]
    top, left = (
        int(torch.randint(edge - length + 1, (), generator=generator))
        for edge, length in zip(size, lengths, strict=True)
    )
    return top, left, lengths[0], lengths[1]


def _check_edges(short_edge: int, max_edge: int) -> None:
    if max_edge < short_edge:
        raise ConfigError(f"max_edge: {max_edge} is less than short_edge {short_edge}; raise it to at least that")
