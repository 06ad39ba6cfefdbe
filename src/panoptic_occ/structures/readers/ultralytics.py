"""One ``Results`` of ultralytics' segmentation models."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import interpolate

from panoptic_occ.common.errors import DataError
from panoptic_occ.structures.masks import MaskCrops
from panoptic_occ.structures.readers.detections import Detections, Scores, attribute, detections_of, whole_numbers
from panoptic_occ.structures.readers.labels import ClassTable

SOURCE = "ultralytics' result"


def read_ultralytics(result: Any, table: ClassTable, scores: Scores | None) -> Detections:
    """``masks.data``, ``boxes`` with ``xyxy``, ``conf`` and ``cls``, ``orig_shape`` and ``names``."""
    if isinstance(result, list | tuple):
        raise DataError(f"{SOURCE}: is a list of {len(result)} images; give one of them, model(image)[0]")
    height, width = attribute(result, "orig_shape", SOURCE)
    boxes, masks = attribute(result, "boxes", SOURCE), attribute(result, "masks", SOURCE)
    corners = torch.zeros(0, 4) if boxes is None else torch.as_tensor(boxes.xyxy)
    if masks is None:
        if len(corners):
            raise DataError(f"{SOURCE}: there are {len(corners)} boxes and no masks; a '-seg' model makes masks")
        return detections_of(MaskCrops.empty((height, width)), (), [], SOURCE)
    if boxes is None:
        raise DataError(f"{SOURCE}: there are masks and no boxes, which hold the scores and classes")
    dense = unletterboxed(torch.as_tensor(masks.data), (int(height), int(width)))
    if table.names is None and table.categories is not None:
        table = replace(table, names=attribute(result, "names", SOURCE))
    labels = table.labels(whole_numbers(boxes.cls), SOURCE)
    return detections_of(MaskCrops.from_dense(dense), boxes.conf if scores is None else scores, labels, SOURCE, corners)


def unletterboxed(masks: Tensor, size: tuple[int, int]) -> Bool[Tensor, "n h w"]:
    """Masks of the padded input of the network as those of the image of ``size``; of this size as they are.

    The padding is cut off, the rest resized bilinearly and thresholded at 0.5.
    """
    if tuple(masks.shape[1:]) == size:
        return masks > 0.5 if masks.is_floating_point() else masks.bool()
    gain = min(masks.shape[1] / size[0], masks.shape[2] / size[1])
    height, width = round(size[0] * gain), round(size[1] * gain)
    top, left = (masks.shape[1] - height) // 2, (masks.shape[2] - width) // 2
    inner: Float[Tensor, "n h w"] = masks[:, top : top + height, left : left + width].float()
    # one by one: in float32 all masks of a photograph would not fit into memory
    resized = [interpolate(mask[None, None], size, mode="bilinear", align_corners=False)[0, 0] > 0.5 for mask in inner]
    return torch.stack(resized) if resized else torch.zeros((0, *size), dtype=torch.bool, device=masks.device)
