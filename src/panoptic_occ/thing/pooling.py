"""RoIAlign over the levels of a feature pyramid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops.poolers import initLevelMapper

from panoptic_occ.structures.sample import Features

LEVELS = ("0", "1", "2", "3")
"""P2..P5, at strides 4, 8, 16, 32; P6 (``pool``) serves the proposals only."""
SEMANTIC = "semantic"
"""A map of the stuff branch at stride 4, added to the crop of every box where there is one (BANet's S2I)."""


class PyramidRoIAlign(nn.Module):
    """RoIAlign of every box on the level that fits its size (FPN, Eq. 1: sqrt(area) = 224 px reads from P4).

    ``aligned``: sample at pixel centres, as detectron2 does; False shifts by half a pixel, as torchvision's models do.
    """

    def __init__(self, output_size: int, sampling_ratio: int = 2, aligned: bool = True) -> None:
        super().__init__()
        self.output_size, self.sampling_ratio, self.aligned = output_size, sampling_ratio, aligned
        self.level_of = initLevelMapper(k_min=2, k_max=5)

    def forward(
        self, features: Features, boxes: Sequence[Float[Tensor, "n 4"]], image_sizes: object = None
    ) -> Float[Tensor, "m c s s"]:
        """Features of all boxes, image after image; ``image_sizes`` is what torchvision passes, and not needed."""
        rois = indexed(boxes)
        level = self.level_of(list(boxes))
        first = features[LEVELS[0]]
        layout = torch.channels_last if reads_bags(first) else torch.contiguous_format
        shape = (len(rois), first.shape[1], self.output_size, self.output_size)
        out = torch.empty(shape, dtype=first.dtype, device=first.device, memory_format=layout)
        for k, name in enumerate(LEVELS):
            index = (level == k).nonzero().flatten()
            if len(index):
                out.index_copy_(0, index, self.crops(features[name], rois[index], stride=2 ** (k + 2)))
        return out + self.crops(features[SEMANTIC], rois, stride=4) if SEMANTIC in features else out

    def crops(self, feature: Tensor, rois: Float[Tensor, "m 5"], stride: int) -> Float[Tensor, "m c s s"]:
        """RoIAlign of one map; ``rois``: image index and box in pixels, sorted by image."""
        return align_rois(feature, rois, Grid(self.output_size, 1 / stride, self.sampling_ratio, self.aligned))


def indexed(boxes: Sequence[Float[Tensor, "n 4"]]) -> Float[Tensor, "m 5"]:
    """The boxes of all images, each after the index of its image."""
    return torch.cat([F.pad(b, (1, 0), value=i) for i, b in enumerate(boxes)])


class Grid(NamedTuple):
    """Where RoIAlign reads: bins a side, cells per pixel of the boxes, samples a bin and side, pixel centres or not."""

    output_size: int
    spatial_scale: float = 1.0
    sampling_ratio: int = 2
    aligned: bool = True


def align_rois(feature: Float[Tensor, "b c h w"], rois: Float[Tensor, "m 5"], grid: Grid) -> Float[Tensor, "m c s s"]:
    """RoIAlign in the form that is fast where ``feature`` is; ``rois``: image index and box, sorted by image.  GPU:
    torchvision's kernel.  CPU: ``sample_rois`` for a gradient, else ``bag_rois``."""
    align = roi_align if feature.is_cuda else bag_rois if reads_bags(feature) else sample_rois
    # boxes stay exact: bfloat16 knows no odd pixel beyond 256
    return align(feature.float(), rois.float(), grid).to(feature.dtype)


def roi_align(feature: Float[Tensor, "b c h w"], rois: Float[Tensor, "m 5"], grid: Grid) -> Float[Tensor, "m c s s"]:
    """torchvision's kernel.  Its own function of this name compiles a substitute in Python where a GPU is asked to be
    deterministic, if only as far as it can."""
    size = (grid.output_size, grid.output_size)
    return torch.ops.torchvision.roi_align(feature, rois, grid.spatial_scale, *size, grid.sampling_ratio, grid.aligned)


def reads_bags(feature: Tensor) -> bool:
    """Whether ``align_rois`` takes ``bag_rois``."""
    return feature.device.type == "cpu" and not (torch.is_grad_enabled() and feature.requires_grad)


def bag_rois(feature: Float[Tensor, "b c h w"], rois: Float[Tensor, "m 5"], grid: Grid) -> Float[Tensor, "m c s s"]:
    """``roi_align`` as sums of weighted feature vectors (``embedding_bag``), several times as fast on a CPU.

    A bin is the mean of its samples and a sample the bilinear mean of four cells, so a bin is one weighted sum of
    cells.  Reads and gives ``channels_last``, where all channels of a cell lie side by side.
    """
    _, channels, height, width = feature.shape
    output_size, spatial_scale, sampling_ratio, aligned = grid
    low, high = (rois[:, 1:] * spatial_scale - (0.5 if aligned else 0.0)).split(2, dim=1)
    extent = high - low if aligned else (high - low).clamp(min=1)
    columns, across = _taps(low[:, 0], extent[:, 0], width, output_size, sampling_ratio)
    rows, down = _taps(low[:, 1], extent[:, 1], height, output_size, sampling_ratio)
    rows = rows * width + (rois[:, 0].int() * height * width)[:, None, None]
    cells = rows[:, :, None, :, None] + columns[:, None, :, None, :]
    weights = down[:, :, None, :, None] * across[:, None, :, None, :]
    table = feature.permute(0, 2, 3, 1).reshape(-1, channels)
    bags = F.embedding_bag(
        cells.flatten(0, 2).flatten(1), table, per_sample_weights=weights.flatten(0, 2).flatten(1), mode="sum"
    )
    return bags.view(len(rois), output_size, output_size, channels).permute(0, 3, 1, 2)


def _taps(
    start: Float[Tensor, " m"], extent: Float[Tensor, " m"], cells: int, bins: int, ratio: int
) -> tuple[Int[Tensor, "m bins taps"], Float[Tensor, "m bins taps"]]:
    """The cells of one axis that every bin reads, two a sample, and their weights.  A sample up to one cell beyond the
    edge reads the border, one further out reads zero (``roi_align``)."""
    size = (extent / bins)[:, None, None]
    corner = start[:, None, None] + torch.arange(bins)[:, None] * size
    position = corner + (torch.arange(ratio) + 0.5) * size / ratio  # in roi_align's order, so that rounding agrees
    inside = (position >= -1) & (position <= cells)
    position = position.clamp(0, cells - 1)
    before = position.floor()
    part = position - before
    taps = torch.stack([before, (before + 1).clamp(max=cells - 1)], dim=-1).int()
    shares = torch.stack([1 - part, part], dim=-1) * (inside / ratio)[..., None]
    return taps.flatten(2), shares.flatten(2)


def sample_rois(feature: Float[Tensor, "b c h w"], rois: Float[Tensor, "m 5"], grid: Grid) -> Float[Tensor, "m c s s"]:
    """RoIAlign by ``grid_sample``, for CPUs, where torchvision's backward runs on one thread.

    Equal to ``roi_align`` for boxes inside the image, as all of ours are; beyond its edge this repeats the border where
    ``roi_align`` reads zeros.
    """
    images, _, height, width = feature.shape
    output_size, spatial_scale, sampling_ratio, aligned = grid
    image = rois[:, 0].long()
    counts = torch.bincount(image, minlength=images)
    slot = torch.arange(len(rois), device=rois.device) - (counts.cumsum(0) - counts)[image]
    low, high = (rois[:, 1:] * spatial_scale).split(2, dim=1)
    extent = high - low if aligned else (high - low).clamp(min=1)
    cells = output_size * sampling_ratio
    steps = (torch.arange(cells, device=rois.device) + 0.5) / cells
    centres = low[:, None] + extent[:, None] * steps[:, None] + (0.0 if aligned else 0.5)
    centres = centres * 2 / centres.new_tensor([width, height]) - 1
    x = centres[:, None, :, 0].expand(-1, cells, -1)
    y = centres[:, :, None, 1].expand(-1, -1, cells)
    samples = centres.new_zeros((images, int(counts.max()) if len(rois) else 0, cells, cells, 2))
    samples[image, slot] = torch.stack([x, y], dim=-1)
    rows = samples.flatten(1, 2)
    sampled = F.grid_sample(feature, rows, padding_mode="border", align_corners=False)
    sampled = sampled.unflatten(2, (samples.shape[1], cells)).transpose(1, 2)[image, slot]
    return F.avg_pool2d(sampled, sampling_ratio) if sampling_ratio > 1 else sampled
