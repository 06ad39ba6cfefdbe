"""One panoptic map, or the pixels where two of them differ, painted over its image."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import distance_transform_edt, find_objects, uniform_filter
from torch import Tensor

from panoptic_occ.structures.categories import Categories
from panoptic_occ.structures.panoptic_map import PanopticMap
from panoptic_occ.visuals.colors import Color, instance_color, muted
from panoptic_occ.visuals.difference import BROKEN, FIXED, NEITHER, Difference, link, segment_index

DIFFERENCE_COLORS: Mapping[int, Color] = {FIXED: (0, 178, 122), BROKEN: (226, 61, 61), NEITHER: (112, 141, 196)}
"""Green, red and blue that stay apart for colour-blind readers."""

VOID_COLOR = (22, 24, 28)
_THING_ALPHA, _STUFF_ALPHA, _VOID_ALPHA, _DIFFERENCE_ALPHA = 0.65, 0.45, 0.85, 0.85
_BAND = 1 << 18  # pixels that are painted at a time
_ROOM = 1 << 21  # pixels (an image of Cityscapes) of a segment's box, of larger ones only some are looked at
_LABEL_COVERAGE = 0.97  # a label may stick out of its segment by this little


def segment_colors(maps: Sequence[PanopticMap], categories: Categories) -> list[dict[int, Color]]:
    """Colour of every segment id of every map: the same object (``difference.link``) has one colour in all of them.

    Crowd regions have the colour of their class, stuff a muted one, things one of its family, by number of the object.
    """
    palettes = []
    for panoptic, keys in zip(maps, link(maps), strict=True):
        palette = {}
        for segment, (label, number) in zip(panoptic.segments, keys, strict=True):
            color = categories[label].color
            palette[segment.id] = instance_color(color, max(number, 0)) if segment.isthing else muted(color)
        palettes.append(palette)
    return palettes


def overlay(
    image: UInt8[Tensor, "3 h w"],
    panoptic: PanopticMap,
    categories: Categories,
    instance_colors: Mapping[int, Color] | None = None,
) -> UInt8[np.ndarray, "h w 3"]:
    """The map over the image: things strong, stuff muted, VOID dark, crowd regions hatched, names where there is room.

    ``instance_colors``: colour by segment id (default: ``segment_colors`` of this map alone).  An image and a map of
    different sizes raise ValueError.

    >>> import torch
    >>> from panoptic_occ import Categories, PanopticMap, Segment
    >>> categories = Categories.from_json([{"id": 101, "name": "sky", "isthing": 0}])
    >>> sky = PanopticMap(torch.tensor([[1, 1, 0]]), (Segment(1, label=0, isthing=False, area=2),))
    >>> overlay(torch.zeros(3, 1, 3, dtype=torch.uint8), sky, categories).shape
    (1, 3, 3)
    """
    if tuple(image.shape[1:]) != tuple(panoptic.ids.shape):
        raise ValueError(f"the image is {tuple(image.shape[1:])} px, its panoptic map {tuple(panoptic.ids.shape)} px")
    colors = instance_colors or segment_colors([panoptic], categories)[0]
    index = segment_index(panoptic)
    segments = panoptic.segments
    paint = np.array([VOID_COLOR, *(colors[segment.id] for segment in segments)], dtype=np.float64)
    alpha = np.array([_VOID_ALPHA, *(_THING_ALPHA if s.isthing else _STUFF_ALPHA for s in segments)])
    crowd = np.array([False, *(segment.iscrowd for segment in segments)])
    edges = boundaries(index)
    painted = np.empty((*index.shape, 3), dtype=np.uint8)
    height = max(_BAND // max(index.shape[1], 1), 1)
    for start in range(0, len(index), height):  # in bands, which bounds the memory of photographs
        band = slice(start, start + height)
        pixels, labels = image[:, band], index[band]
        # Nearly grey below, so that one segment has one colour whatever the object's own colours are.
        below = _blend(_pixels(pixels), _grey(pixels), 0.8)
        canvas = _blend(below, paint[labels], alpha[labels][..., None])
        stripes = hatch(labels.shape, start)
        canvas = _blend(canvas, 255, (0.55 * (crowd[labels] & stripes))[..., None])
        canvas = _blend(canvas, 150, (0.35 * ((labels == 0) & stripes))[..., None])
        painted[band] = _bytes(_blend(canvas, 255, (0.85 * edges[band])[..., None]))
    texts = [categories[s.label].name + (" (crowd)" if s.iscrowd else "") for s in segments]
    return _labelled(painted, index, texts)


def difference_overlay(
    image: UInt8[Tensor, "3 h w"], change: Difference, target: PanopticMap
) -> UInt8[np.ndarray, "h w 3"]:
    """Differing pixels over the pale grey image with the ground truth's boundaries (``DIFFERENCE_COLORS``)."""
    pale = _blend(_grey(image), 235, 0.55)
    canvas = _blend(pale, np.array((90.0, 96.0, 104.0)), (0.55 * boundaries(segment_index(target)))[..., None])
    paint = np.zeros((4, 3))
    for kind, color in DIFFERENCE_COLORS.items():
        paint[kind] = color
    return _bytes(_blend(canvas, paint[change.kind], (_DIFFERENCE_ALPHA * (change.kind > 0))[..., None]))


def boundaries(index: Int[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """Pixels whose right or lower neighbour belongs to another segment: lines of one pixel."""
    edge = np.zeros(index.shape, dtype=bool)
    edge[:, :-1] |= index[:, :-1] != index[:, 1:]
    edge[:-1] |= index[:-1] != index[1:]
    return edge


def hatch(shape: tuple[int, ...], start: int = 0) -> Bool[np.ndarray, "h w"]:
    """Diagonal stripes, of a band that begins in row ``start``."""
    rows, columns = np.indices(shape, sparse=True)
    return (start + rows + columns) % 9 < 2


@cache
def font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which comes with matplotlib and knows more scripts than the built-in font of Pillow."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path(), "fonts", "ttf", name)), size)


def _pixels(image: UInt8[Tensor, "3 h w"]) -> Float[np.ndarray, "h w 3"]:
    return image.cpu().permute(1, 2, 0).numpy().astype(np.float64)


def _grey(image: UInt8[Tensor, "3 h w"]) -> Float[np.ndarray, "h w 1"]:
    luma: Float[np.ndarray, "h w"] = _pixels(image) @ np.array((0.299, 0.587, 0.114))
    return luma[..., None]


def _bytes(canvas: Float[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w 3"]:
    return np.rint(canvas).clip(0, 255).astype(np.uint8)


def _blend(below: np.ndarray, above: np.ndarray | float, alpha: np.ndarray | float) -> Float[np.ndarray, "h w 3"]:
    mixed: np.ndarray = below + alpha * (above - below)
    return mixed


def _labelled(
    canvas: UInt8[np.ndarray, "h w 3"], index: Int[np.ndarray, "h w"], texts: Sequence[str]
) -> UInt8[np.ndarray, "h w 3"]:
    """Writes text k into segment k (index k + 1), as far from the segment's edge as possible, if there is room."""
    face = font(int(np.clip(max(index.shape) // 32, 10, 24)))
    picture = Image.fromarray(canvas)
    draw = ImageDraw.Draw(picture)
    for number, window in enumerate(find_objects(index), start=1):
        if window is None:
            continue
        text = texts[number - 1]
        left, top, right, bottom = draw.textbbox((0, 0), text, font=face, anchor="mm")
        place = _room(index[window] == number, (int(bottom - top) + 4, int(right - left) + 10))
        if place is None:
            continue
        y, x = place[0] + window[0].start, place[1] + window[1].start
        draw.text((x, y), text, font=face, anchor="mm", fill=(255, 255, 255), stroke_width=1, stroke_fill=(25, 25, 30))
    return np.asarray(picture)


def _room(mask: Bool[np.ndarray, "h w"], size: tuple[int, int]) -> tuple[int, int] | None:
    """Centre (y, x) of a rectangle of ``size`` inside the mask, as far from its edge as possible; None without room."""
    step = math.ceil(math.sqrt(mask.size / _ROOM))
    if step > 1:
        place = _room(mask[::step, ::step], (-(-size[0] // step), -(-size[1] // step)))
        return None if place is None else (place[0] * step, place[1] * step)
    if mask.shape[0] < size[0] or mask.shape[1] < size[1]:
        return None
    covered = uniform_filter(mask.astype(np.float64), size, mode="constant") >= _LABEL_COVERAGE
    if not covered.any():
        return None
    depth = distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    y, x = np.unravel_index(np.argmax(np.where(covered, depth, -1)), mask.shape)
    return int(y), int(x)
