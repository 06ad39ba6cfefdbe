"""Panoptic maps of torchmetrics: a tensor with the category and the instance of every pixel."""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor

from panoptic_occ.common.errors import DataError
from panoptic_occ.metrics.pq.core import VOID_ID, some
from panoptic_occ.structures.categories import Categories
from panoptic_occ.structures.panoptic_map import PanopticMap, Segment
from panoptic_occ.structures.semantic_map import VOID_LABEL

VOID_KEY = -1


def maps_of_pairs(pairs: Tensor, categories: Categories, name: str, unknown_is_void: bool) -> list[PanopticMap]:
    """The maps of a batch (B, H, W, 2): ``[..., 0]`` is the data set's category id, ``[..., 1]`` tells instances apart.

    All pixels of a stuff category are one segment, whatever their instance.  Ids that the categories do not have are
    VOID, or DataError; so are other shapes and types.  ``name`` of the argument, for errors.
    """
    if pairs.ndim != 4 or pairs.shape[-1] != 2:
        raise DataError(
            f"{name} has the shape {tuple(pairs.shape)}; (B, H, W, 2) is meant, the category id and the instance of "
            f"every pixel; of one image give {name}[None]"
        )
    if pairs.is_floating_point() or pairs.dtype == torch.bool:
        raise DataError(f"{name} is {pairs.dtype}; category and instance are whole numbers: {name}.long()")
    return [_map_of_pairs(image, categories, f"{name}[{k}]", unknown_is_void) for k, image in enumerate(pairs.long())]


def _map_of_pairs(pairs: Int[Tensor, "h w 2"], categories: Categories, name: str, unknown_is_void: bool) -> PanopticMap:
    present, place = torch.unique(pairs[..., 0], return_inverse=True)
    known = {category.id: label for label, category in enumerate(categories.items)}
    unknown = [number for number in present.tolist() if number not in known]
    if unknown and not unknown_is_void:
        raise DataError(
            f"{name} holds the category ids {some(unknown)}, which are not among the categories "
            f"({some(sorted(known))}); allow_unknown_preds_category=True makes such pixels VOID"
        )
    labels = torch.tensor([known.get(number, VOID_LABEL) for number in present.tolist()], device=pairs.device)[place]
    _, instance = torch.unique(pairs[..., 1], return_inverse=True)
    isthing = labels < categories.num_things
    count = instance.numel()  # more than there are instances
    keys, segment, areas = torch.unique(
        (labels * count + instance.masked_fill(~isthing, 0)).masked_fill(labels == VOID_LABEL, VOID_KEY),
        return_inverse=True,
        return_counts=True,
    )
    has_void = bool((keys[:1] == VOID_KEY).any())  # the smallest key
    listed = list(zip((keys // count).tolist(), areas.tolist(), strict=True))[has_void:]
    segments = (
        Segment(number, label, label < categories.num_things, area)
        for number, (label, area) in enumerate(listed, start=VOID_ID + 1)
    )
    return PanopticMap(segment + VOID_ID + (not has_void), tuple(segments))
