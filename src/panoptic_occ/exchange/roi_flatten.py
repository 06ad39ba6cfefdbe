"""RoI-Flatten: from soft masks in boxes to one map per class (REFINE, Ren et al. 2021, Eq. 5; Fu et al. 2019).

The canvas at stride 4 holds, for every class and pixel, the largest value that a mask of this class has there.  Only
the winner of a pixel is read with a graph, so memory grows with the covered pixels, not with the number of masks.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from panoptic_occ.thing.base import Rois
from panoptic_occ.thing.paste import cell_position, cell_weights

STRIDE = 4


def roi_flatten(
    soft: Float[Tensor, "n s s"],
    rois: Sequence[Rois],
    classes: int,
    size: tuple[int, int],
    weights: Float[Tensor, " n"] | None = None,
) -> Float[Tensor, "b k h4 w4"]:
    """Canvas of ``classes`` channels and ``size`` (height, width) at stride 4, one for every image in ``rois``.

    ``soft``: mask of every region, image after image; its values, times ``weights`` (detection scores), compete for
    the pixels whose centres lie in the box (edges included), in the channel of the region's label.  The rest is 0.
    Between the centres of the mask's cells values are bilinear, beyond the outermost centres constant.  Negative
    values count as 0.  The gradient goes to the winner only: the first of equals.
    """
    if weights is not None:
        soft = soft * weights[:, None, None]
    boxes = torch.cat([r.boxes for r in rois]).to(soft.dtype) / STRIDE
    canvas = soft.new_zeros((len(rois), classes, *size))
    with torch.autocast(soft.device.type, enabled=False):  # half precision would see ties where there are none
        owner = _winners(soft.detach(), boxes, rois, canvas.shape)
    image, label, y, x = place = (owner >= 0).nonzero().unbind(dim=1)
    roi = owner[image, label, y, x]
    return canvas.index_put(place, _read(soft, boxes, roi, y, x))


def _winners(
    soft: Float[Tensor, "n s s"], boxes: Float[Tensor, "n 4"], rois: Sequence[Rois], shape: Sequence[int]
) -> Int[Tensor, "b k h4 w4"]:
    """The region with the largest value at every place of the canvas, -1 where no value is above 0."""
    (height, width), cells = shape[2:], soft.shape[-1]
    best = soft.new_zeros(tuple(shape))
    owner = torch.full(tuple(shape), -1, dtype=torch.int64, device=soft.device)
    first = (boxes[:, :2] - 0.5).ceil().clamp(min=0)
    last = torch.minimum((boxes[:, 2:] - 0.5).floor() + 1, boxes.new_tensor([width, height]))
    windows = torch.cat([first, last], dim=1).long().tolist()
    labels = torch.cat([r.labels for r in rois]).tolist()
    images = [image for image, r in enumerate(rois) for _ in range(len(r))]
    for i, (image, label, (left, top, right, bottom)) in enumerate(zip(images, labels, windows, strict=True)):
        if right <= left or bottom <= top:
            continue
        pixels = torch.arange(max(right, bottom), device=soft.device)
        rows = cell_weights(_position(boxes[i, 1], boxes[i, 3], pixels[top:bottom], cells), cells)
        columns = cell_weights(_position(boxes[i, 0], boxes[i, 2], pixels[left:right], cells), cells)
        values = rows @ soft[i] @ columns.T
        window = (image, label, slice(top, bottom), slice(left, right))
        better = values > best[window]
        best[window] = torch.where(better, values, best[window])
        owner[window].masked_fill_(better, i)
    return owner


def _read(
    soft: Float[Tensor, "n s s"], boxes: Float[Tensor, "n 4"], roi: Int[Tensor, " m"], y: Tensor, x: Tensor
) -> Float[Tensor, " m"]:
    """Bilinear value of mask ``roi[m]`` at the canvas pixel ``(y[m], x[m])``."""
    cells = soft.shape[-1]
    left, top, right, bottom = boxes[roi].unbind(dim=1)
    row, column = _position(top, bottom, y, cells), _position(left, right, x, cells)
    upper, before = row.floor().long(), column.floor().long()
    lower, after = (upper + 1).clamp(max=cells - 1), (before + 1).clamp(max=cells - 1)
    down, across = row - upper, column - before
    above = torch.lerp(soft[roi, upper, before], soft[roi, upper, after], across)
    below = torch.lerp(soft[roi, lower, before], soft[roi, lower, after], across)
    return torch.lerp(above, below, down)


def _position(low: Tensor, high: Tensor, pixel: Int[Tensor, " m"], cells: int) -> Float[Tensor, " m"]:
    """Where the centres of canvas pixels lie among the cells, at the border those beyond it."""
    return cell_position(pixel, low, high, cells).clamp(0, cells - 1)
