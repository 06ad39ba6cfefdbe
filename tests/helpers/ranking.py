"""OANet's ranking module for a toy data set, its loss on annotations, and a literal version over whole images."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from panoptic_occ.occlusion.base import TrainingExample
from panoptic_occ.occlusion.oanet import SpatialRanking
from panoptic_occ.structures.instances import InstanceSet
from panoptic_occ.structures.target import Target
from panoptic_occ.testing import toy_categories, toy_detections, toy_sample


def ranking(things: int = 3, **options: object) -> SpatialRanking:
    """A module whose bias is not zero either."""
    torch.manual_seed(0)
    model = SpatialRanking(in_channels=4, categories=toy_categories(things), **options)  # type: ignore[arg-type]
    torch.nn.init.normal_(model.conv.bias)
    return model.eval()


def loss_of(model: SpatialRanking, *targets: Target) -> Tensor:
    examples = [TrainingExample.of_annotations(target) for target in targets]
    return model.loss(examples, torch.Generator())["loss_occlusion"]


def scene(count: int = 6, seed: int = 0, size: tuple[int, int] = (22, 31)) -> tuple[Target, InstanceSet]:
    """Annotations and detections of an image whose edges are no multiples of 4."""
    target = toy_sample(count, seed, size=size).annotations
    return target, toy_detections(target, seed)


def literal_map(model: SpatialRanking, masks: Tensor, labels: Tensor) -> Tensor:
    """S of the whole image, layer by layer, with every class and zero padding: (C, H, W)."""
    classes, (height, width) = model.categories.num_things, masks.shape[1:]
    tensor = torch.zeros(classes, height, width)
    for mask, label in zip(masks, labels, strict=True):
        tensor[label][mask] = 1
    if model.stride == 4:
        rows, columns = -(-height // 4), -(-width // 4)
        padded = torch.zeros(classes, 4 * rows, 4 * columns)
        padded[:, :height, :width] = tensor
        cells = padded.view(classes, rows, 4, columns, 4)
        tensor = cells.mean(dim=(2, 4)) if model.pool == "average" else cells.amax(dim=(2, 4))
    total = torch.zeros_like(tensor) + model.conv.bias[:, None, None]
    for branch in model.conv.branches:
        x = tensor[None]
        for kernel in branch.parameters():
            x = F.conv2d(x, kernel, padding="same")
        total = total + x[0]
    if model.stride == 4:
        total = F.interpolate(total[None], scale_factor=4, mode="bilinear", align_corners=False)[0]
    return total[:, :height, :width]


def literal_scores(model: SpatialRanking, instances: InstanceSet) -> Tensor:
    masks = instances.masks.dense()
    probs = literal_map(model, masks, instances.labels).softmax(dim=0)
    return torch.stack([probs[c][m].mean() for c, m in zip(instances.labels.tolist(), masks, strict=True)])
