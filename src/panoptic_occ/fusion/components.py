"""Connected parts of a label map."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int
from scipy import ndimage
from torch import Tensor

from panoptic_occ.masks import Window

NEIGHBOURS = np.ones((3, 3), dtype=bool)


class Components(NamedTuple):
    """``numbers``: component of every pixel, -1 where there is none; the label and the bounding window of each."""

    numbers: Int[Tensor, "h w"]
    labels: Int[Tensor, " r"]
    windows: tuple[Window, ...]


def components(labels: Int[Tensor, "h w"]) -> Components:
    """8-connected components of equal labels, numbered from 0 by ascending label, then in scipy's order (by their first
    pixel, row by row); negative labels belong to none.  A function of the map alone, so numbers can be stored.
    """
    array = labels.cpu().numpy()
    numbers = np.full(array.shape, -1, dtype=np.int64)
    owners: list[int] = []
    windows: list[Window] = []
    for label, window in enumerate(ndimage.find_objects(np.maximum(array + 1, 0))):
        if window is None:
            continue
        parts, count = ndimage.label(array[window] == label, NEIGHBOURS)
        view = numbers[window]
        view[parts > 0] = parts[parts > 0] + (len(owners) - 1)
        owners += [label] * count
        rows, columns = window
        windows += [
            (slice(rows.start + y.start, rows.start + y.stop), slice(columns.start + x.start, columns.start + x.stop))
            for y, x in ndimage.find_objects(parts)
        ]
    device = labels.device
    return Components(torch.from_numpy(numbers).to(device), torch.tensor(owners, device=device), tuple(windows))
