"""What every reader makes of foreign detections: checked masks, boxes, scores and labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from panoptic_occ.common.errors import DataError
from panoptic_occ.structures.masks import MaskCrops
from panoptic_occ.structures.readers.labels import DROPPED

Scores = float | Sequence[float] | np.ndarray | Tensor
"""One for each detection, or one for all."""


@dataclass(frozen=True, eq=False)
class Detections:
    """The fields of an ``InstanceSet``, in the order of the source."""

    masks: MaskCrops
    boxes: Float[Tensor, "n 4"]
    scores: Float[Tensor, " n"]
    labels: Int[Tensor, " n"]


def detections_of(
    masks: MaskCrops, scores: Scores | None, labels: Sequence[int], source: str, boxes: Any = None
) -> Detections:
    """Detections without those whose label is ``DROPPED``; ``boxes`` xyxy, without them those of the masks.

    DataError for lengths that differ, for missing scores and for scores outside [0, 1].
    """
    device, count = masks.pixels.device, len(masks)
    checked = scores_of(scores, count, source).detach().to(device)
    corners = masks.boxes if boxes is None else torch.as_tensor(boxes, dtype=torch.float32).detach().reshape(-1, 4)
    for name, column in (("scores", checked), ("labels", labels), ("boxes", corners)):
        if len(column) != count:
            raise DataError(f"{source}: {count} masks have {len(column)} {name}; one for each mask is meant")
    kept = [k for k, label in enumerate(labels) if label != DROPPED]
    numbers = torch.tensor([labels[k] for k in kept], dtype=torch.int64, device=device)
    return Detections(masks[kept], corners.to(device)[kept], checked[kept], numbers)


def scores_of(scores: Scores | None, count: int, source: str) -> Float[Tensor, " n"]:
    """Scores as float32; DataError where they are missing, or no probabilities."""
    if scores is None and count:
        raise DataError(f"{source}: there are no scores; scores=1.0 gives all the same, scores=[...] each its own")
    values = torch.as_tensor([] if scores is None else scores, dtype=torch.float32)
    values = values.expand(count) if values.ndim == 0 else values
    for k, score in enumerate(values.tolist()):
        if not 0 <= score <= 1:  # also NaN
            raise DataError(
                f"{source}: detection {k} has the score {score:g}; a probability in [0, 1] is meant: divide per cent "
                "by 100, take the sigmoid or softmax of logits"
            )
    return values


def crops_of(masks: Any, source: str, threshold: float | None = None, size: tuple[int, int] | None = None) -> MaskCrops:
    """Crops of dense masks, also of a list of them; ``size`` (height, width): of the image.

    DataError for soft masks without a ``threshold``, for shapes that are none of masks, and for another size.
    """
    if isinstance(masks, list | tuple):
        if not masks:
            return MaskCrops.empty(known_size(size, source))
        shapes = {getattr(mask, "shape", None) and tuple(mask.shape) for mask in masks}
        if len(shapes) > 1 or None in shapes:
            kinds = ", ".join(sorted(map(str, shapes - {None} or {type(mask).__name__ for mask in masks})))
            raise DataError(f"{source}: a list of {kinds} is no list of masks; arrays (H, W) of one image are meant")
        masks = torch.stack([torch.as_tensor(mask) for mask in masks])
    try:
        crops = MaskCrops.from_dense(masks, threshold)
    except ValueError as error:
        raise DataError(f"{source}: {error}") from None
    check_size(crops.size, size, source)
    return crops


def check_size(of_masks: Sequence[int], size: Sequence[int] | None, source: str) -> None:
    """DataError unless masks have the ``size`` (height, width) of their image."""
    if size is not None and tuple(of_masks) != tuple(size):
        swapped = "; height and width are swapped" if tuple(of_masks) == tuple(size)[::-1] else ""
        raise DataError(
            f"{source}: the masks are of (height, width) {tuple(of_masks)}, the image is {tuple(size)}{swapped}; masks "
            "of the same pixels are meant: resize them, soft ones before the threshold"
        )


def known_size(size: tuple[int, int] | None, source: str) -> tuple[int, int]:
    """``size``; DataError where nobody knows that of an image without detections."""
    if size is None:
        raise DataError(f"{source}: without masks nobody knows the size of the image; give size=(height, width)")
    return size


def whole_numbers(values: Any) -> list[int]:
    """Class numbers of a tensor, an array or a list; floats, as ultralytics has them, are rounded."""
    return torch.as_tensor(values).round().long().reshape(-1).tolist()


def attribute(holder: Any, name: str, source: str) -> Any:
    """An attribute that must be there."""
    if not hasattr(holder, name):
        raise DataError(f"{source}: a {type(holder).__name__} has no '{name}'; is this the output that is meant?")
    return getattr(holder, name)


def entry(holder: Any, name: str, source: str) -> Any:
    """An entry of a dictionary that must be there."""
    if not hasattr(holder, "keys") or name not in holder:
        keys = sorted(map(str, holder)) if hasattr(holder, "keys") else type(holder).__name__
        raise DataError(f"{source}: has no '{name}' (found: {keys}); the output of one image is meant")
    return holder[name]
