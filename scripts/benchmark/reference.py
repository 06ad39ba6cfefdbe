"""Literal, dense, slow forms of everything that the suite does fast, line by line after the papers' pseudocode.

Results of the suite must equal these; they are also what the benchmark's ratios compare with where no public package
does the same.  Masks are dense (N, H, W) bool, sorted by falling score where an algorithm goes by score.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import chain
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from panoptic_occ.occlusion.heads.roi_head import PairHead
from panoptic_occ.structures.panoptic_map import PanopticMap

Masks = Bool[Tensor, "n h w"]
Pairs = Bool[Tensor, "n n"]
Labels = Int[Tensor, " n"]
Map = Int[Tensor, "h w"]
Size = tuple[int, int]
Counts = tuple[list[int], list[int], list[int], list[float]]


class DenseMap(NamedTuple):
    """A panoptic map and its segments: id, contiguous label, pixels, and the index of the instance (None: stuff)."""

    ids: Int[Tensor, "h w"]
    segments: tuple[tuple[int, int, int, int | None], ...]


def candidates(masks: Masks) -> Iterator[tuple[int, Bool[Tensor, "h w"], int]]:
    """Index, mask and pixels of every mask that has any."""
    return ((i, mask, area) for i, mask in enumerate(masks) if (area := int(mask.sum())))


def fuse_by_confidence(masks: Masks, labels: Labels, semantic: Map, max_occluded: float, stuff_area: int) -> DenseMap:
    """The heuristic of Panoptic Segmentation (Kirillov et al., CVPR 2019, section 7 and appendix): the most confident
    instance first, each without the pixels already taken, and none of which too much is taken."""
    owner = torch.zeros(semantic.shape, dtype=torch.int64)
    for i, mask, area in candidates(masks):
        if int((mask & (owner > 0)).sum()) / area <= max_occluded:
            owner[mask & (owner == 0)] = i + 1
    return finished(owner, labels, semantic, stuff_area)


def fuse_by_occlusion(
    masks: Masks, labels: Labels, above: Pairs, semantic: Map, sig_ratio: float, min_visible: float, stuff_area: int
) -> DenseMap:
    """Algorithm 1 of OCFusion (Lazarow et al., CVPR 2020); ``above[i, j]``: the head says that i occludes j.  What a
    rejected instance would have taken stays with its owners."""
    owner = torch.zeros(semantic.shape, dtype=torch.int64)
    accepted: list[int] = []
    for i, mask, area in candidates(masks):
        claim = mask & (owner == 0)
        for j in accepted:
            inter = int((mask & masks[j]).sum())
            significant = inter > 0 and max(inter / area, inter / int(masks[j].sum())) >= sig_ratio
            if significant and above[i, j]:
                claim |= mask & (owner == j + 1)
        if int(claim.sum()) / area > min_visible:
            owner[claim] = i + 1
            accepted.append(i)
    return finished(owner, labels, semantic, stuff_area)


def fuse_by_value(
    masks: Masks,
    labels: Labels,
    values: Float[Tensor, " n"],
    semantic: Map,
    same_class_thr: float,
    duplicate_thr: float,
    min_visible: float,
    stuff_area: int,
) -> DenseMap:
    """Algorithm 1 of RAP (Chen); the smaller of two ``values`` lies in front."""
    owner = torch.zeros(semantic.shape, dtype=torch.int64)
    owner_label = torch.full(semantic.shape, -1)
    owner_value = torch.full(semantic.shape, torch.inf)
    accepted: list[int] = []
    for i, mask, area in candidates(masks):
        same = int((mask & (owner_label == labels[i])).sum())
        if same > 0 and same / area >= same_class_thr:
            continue
        shares = (int((mask & masks[j]).sum()) / max(area, int(masks[j].sum())) for j in accepted)  # the smaller ones
        if any(share >= duplicate_thr for share in shares):
            continue
        claim = mask & (owner_value > values[i])
        if int(claim.sum()) / area > min_visible:
            owner[claim], owner_label[claim], owner_value[claim] = i + 1, labels[i], values[i]
            accepted.append(i)
    return finished(owner, labels, semantic, stuff_area)


def finished(owner: Map, labels: Labels, semantic: Map, stuff_area: int) -> DenseMap:
    """Numbers the instances that own pixels, then fills every stuff class that is large enough on what is left."""
    ids = torch.zeros_like(owner)
    segments: list[tuple[int, int, int, int | None]] = []
    instances = ((owner == i + 1, label, i) for i, label in enumerate(labels.tolist()))
    classes = semantic[semantic >= 0].unique().tolist()
    stuff = (((semantic == label) & (owner == 0), label, None) for label in classes)
    for region, label, instance in chain(instances, stuff):
        area = int(region.sum())
        if area > 0 and (instance is not None or area >= stuff_area):
            segments.append((len(segments) + 1, label, area, instance))
            ids[region] = len(segments)
    return DenseMap(ids, tuple(segments))


def pair_counts(masks: Masks) -> Float[Tensor, "n n"]:
    """Pixels that every two masks share, as one product of dense matrices (exact below 2^24 pixels)."""
    flat = masks.flatten(1).float()
    return flat @ flat.T


def paste(soft: Float[Tensor, "n s s"], boxes: Float[Tensor, "n 4"], size: Size, threshold: float = 0.5) -> Masks:
    """Mask R-CNN (He et al. 2017, 3.1): the soft mask stretched over its box and cut at ``threshold``, dense."""
    masks = torch.zeros((len(soft), *size), dtype=torch.bool)
    for mask, probs, box in zip(masks, soft, boxes, strict=True):
        window, sampled = stretch(probs, box, size)
        mask[window] = sampled >= threshold
    return masks


def stretch(
    soft: Float[Tensor, "s s"], box: Float[Tensor, " 4"], size: Size
) -> tuple[tuple[slice, slice], Float[Tensor, "h w"]]:
    """The part of the image that the box touches, and the soft mask at the centres of its pixels, 0 outside the box."""
    x0, y0, x1, y1 = box.tolist()
    left, right = (min(max(edge, 0), size[1]) for edge in (math.floor(x0), math.ceil(x1)))
    top, bottom = (min(max(edge, 0), size[0]) for edge in (math.floor(y0), math.ceil(y1)))
    x = torch.arange(left, max(left, right), dtype=soft.dtype) + 0.5
    y = torch.arange(top, max(top, bottom), dtype=soft.dtype) + 0.5
    window = slice(top, top + len(y)), slice(left, left + len(x))
    if len(x) == 0 or len(y) == 0:
        return window, soft.new_zeros((len(y), len(x)))
    across = (x - x0) / max(x1 - x0, 1e-6) * 2 - 1
    down = (y - y0) / max(y1 - y0, 1e-6) * 2 - 1
    grid = torch.stack(torch.meshgrid(across, down, indexing="xy"), dim=-1)
    sampled = F.grid_sample(soft[None, None], grid[None], mode="bilinear", align_corners=False)[0, 0]
    inside = ((x >= x0) & (x <= x1))[None, :] & ((y >= y0) & (y <= y1))[:, None]
    return window, sampled * inside


def label_map(logits: Float[Tensor, "c h4 w4"], inside: Size, size: Size) -> Map:
    """Panoptic FPN (Kirillov et al. 2019, 3.1): the best channel of every pixel."""
    return full_logits(logits, inside, size).argmax(dim=0)


def full_logits(logits: Float[Tensor, "c h4 w4"], inside: Size, size: Size) -> Float[Tensor, "c h w"]:
    """x4 bilinear, without the padding, to the image's size."""
    full = F.interpolate(logits[None], scale_factor=4, mode="bilinear", align_corners=False)
    return F.interpolate(full[..., : inside[0], : inside[1]], size=size, mode="bilinear", align_corners=False)[0]


def pair_logits(head: PairHead, x: Float[Tensor, "n c 14 14"], pairs: Int[Tensor, "p 2"]) -> Float[Tensor, " p"]:
    """OCFusion 3.3: the joined inputs of every pair through the whole head, nothing shared between pairs."""
    y = torch.cat([x[pairs[:, 0]], x[pairs[:, 1]]], dim=1)
    for convolution in (head.conv1, head.conv2, head.conv3, head.conv4):
        y = F.relu(F.conv2d(y, convolution.weight, convolution.bias, convolution.stride, convolution.padding))
    hidden = F.relu(F.linear(y.flatten(1), head.fc1.weight, head.fc1.bias))
    return F.linear(hidden, head.project.weight, head.project.bias)[:, 0]


def panoptic_counts(prediction: PanopticMap, target: PanopticMap, num_categories: int) -> Counts:
    """Matches, false and missed segments, and the sum of the matches' IoU, by contiguous category: panoptic quality
    (Kirillov et al. 2019, section 4, equation 1 and the void and crowd rules of 4.2), one dense mask per segment."""
    tp, fp, fn = ([0] * num_categories for _ in range(3))
    ious = [0.0] * num_categories
    void = target.ids == 0
    crowds = {truth.label: target.ids == truth.id for truth in target.segments if truth.iscrowd}
    guesses = {guess.id: (guess.label, prediction.ids == guess.id) for guess in prediction.segments}
    for truth in (segment for segment in target.segments if not segment.iscrowd):
        mask = target.ids == truth.id
        fn[truth.label] += 1
        for number, (label, guess) in list(guesses.items()):
            if label == truth.label:
                inter = int((mask & guess).sum())
                iou = inter / (int(guess.sum()) + truth.area - inter - int((guess & void).sum()))
                if iou > 0.5:
                    fn[label] -= 1
                    tp[label] += 1
                    ious[label] += iou
                    del guesses[number]
    for label, guess in guesses.values():
        ignored = guess & (void | crowds[label] if label in crowds else void)
        if int(ignored.sum()) / int(guess.sum()) <= 0.5:
            fp[label] += 1
    return tp, fp, fn, ious
