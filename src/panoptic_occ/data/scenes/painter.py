"""Paints one scene: the picture, the full masks of its things, and its panoptic map."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from panoptic_occ.data.scenes.layout import PATTERN_OF, THINGS, LayoutBuilder, Mix, Thing, local_frame, window
from panoptic_occ.data.scenes.shapes import GROUNDS, PATTERNS, SHAPES

# All things share one palette, and every colour is shaded by a gradient: colour does not tell classes or order.
PALETTE = np.array(
    [
        [214, 69, 65], [240, 147, 43], [246, 211, 83], [92, 184, 92],
        [52, 172, 172], [70, 120, 210], [142, 92, 190], [226, 120, 170],
        [236, 236, 228], [120, 86, 62],
    ],
    np.float32,
)  # fmt: skip
GROUND_COLORS = np.array([[86, 104, 84], [128, 98, 86], [84, 104, 124], [150, 142, 122]], np.float32)
STUFF = tuple(GROUNDS)


@dataclass(frozen=True)
class PaintedScene:
    """image (S,S,3) uint8; things: (class name, full mask), shuffled; crowd: (class name, mask outside ``owner``) or
    None; owner (S,S): index into things, -1 for ground; stuff (S,S): index into STUFF, -1 for void.
    """

    image: NDArray[np.uint8]
    things: list[tuple[str, NDArray[np.bool_]]]
    owner: NDArray[np.int64]
    stuff: NDArray[np.int64]
    crowd: tuple[str, NDArray[np.bool_]] | None


def paint_scene(
    size: int, mix: Mix, rng: np.random.Generator, crowd_share: float = 0.12, void_share: float = 0.3
) -> PaintedScene:
    """One scene of ``size`` x ``size`` px, a pure function of the generator's state."""
    canvas, stuff = _paint_ground(size, rng)
    if rng.random() < void_share:
        void = _blob(size, rng, 0.10)
        stuff[void] = -1
        canvas[void] = rng.uniform(20, 70, (int(void.sum()), 1)).astype(np.float32)
    crowd = None
    if rng.random() < crowd_share:
        crowd = _paint_crowd(canvas, size, rng)
    layout = LayoutBuilder(size, mix, rng).build()
    owner = np.full((size, size), -1, np.int64)
    shuffled = rng.permutation(len(layout.things))  # file index of every object, independent of the painting order
    for index in layout.order:
        _paint_thing(canvas, layout.things[index], rng)
        owner[layout.masks[index]] = shuffled[index]
    things = [(layout.things[index].name, layout.masks[index]) for index in np.argsort(shuffled)]
    if crowd is not None:
        crowd = (crowd[0], crowd[1] & (owner < 0))
        crowd = crowd if crowd[1].any() else None
    noisy = canvas + rng.normal(0, 5, canvas.shape)
    return PaintedScene(np.clip(noisy, 0, 255).astype(np.uint8), things, owner, stuff, crowd)


def _paint_ground(size: int, rng: np.random.Generator) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Two or three kinds of ground with wavy borders, each with its own texture."""
    y, x = (np.mgrid[:size, :size].astype(np.float32) + 0.5) / size
    tilt = rng.uniform(-0.25, 0.25)
    height = y + tilt * (x - 0.5) + 0.04 * np.sin(2 * np.pi * (rng.uniform(1, 2) * x + rng.random()))
    borders = np.sort(rng.uniform(0.2, 0.85, size=int(rng.integers(1, 3))))
    band = np.searchsorted(borders, height)
    kinds = rng.permutation(len(STUFF))
    canvas = np.zeros((size, size, 3), np.float32)
    stuff = kinds[band]
    for kind in np.unique(stuff):
        texture = GROUNDS[STUFF[kind]](x, y, rng)
        color = GROUND_COLORS[rng.integers(len(GROUND_COLORS))] + rng.uniform(-14, 14, 3)
        shade = (0.72 + 0.5 * texture)[..., None] * color
        here = stuff == kind
        canvas[here] = shade[here]
    return canvas, stuff.astype(np.int64)


def _paint_thing(canvas: NDArray[np.float32], thing: Thing, rng: np.random.Generator) -> None:
    """Paints a textured, shaded, outlined object over the canvas; its edge is blended over one pixel."""
    size = len(canvas)
    where = window(thing, size)
    x, y = local_frame(thing, *where)
    sd = SHAPES[thing.name](x, y) * thing.radius
    first, second = PALETTE[rng.choice(len(PALETTE), 2, replace=False)]
    share = np.asarray(PATTERNS[PATTERN_OF[thing.name]](x, y), np.float32)[..., None]
    color = first + 0.75 * share * (second - first)
    light = rng.uniform(0, 2 * np.pi)
    gradient = 0.9 + 0.22 * np.clip(np.cos(light) * x + np.sin(light) * y, -1.2, 1.2)
    color = color * gradient[..., None]
    line = 1.3 * size / 128
    outline = np.clip(1 - (np.abs(sd + line) - 0.5 * line) / (0.6 * line), 0, 1)[..., None]
    color = color * (1 - 0.85 * outline)
    cover = np.clip(0.5 - sd, 0, 1)[..., None]
    canvas[where] = canvas[where] * (1 - cover) + color * cover


def _paint_crowd(canvas: NDArray[np.float32], size: int, rng: np.random.Generator) -> tuple[str, NDArray[np.bool_]]:
    """A cluster of many tiny objects of one class, annotated as one crowd region."""
    name = str(rng.choice(THINGS))
    centre = rng.uniform(0.15, 0.85, 2) * size
    region = np.zeros((size, size), bool)
    for _ in range(int(rng.integers(7, 13))):
        x, y = centre + rng.normal(0, 0.07, 2) * size
        thing = Thing(name, float(x), float(y), 0.035 * size, float(rng.uniform(0, 2 * np.pi)))
        _paint_thing(canvas, thing, rng)
        where = window(thing, size)
        region[where] |= SHAPES[name](*local_frame(thing, *where)) * thing.radius < 1.5
    return name, region


def _blob(size: int, rng: np.random.Generator, radius: float) -> NDArray[np.bool_]:
    y, x = np.mgrid[:size, :size].astype(np.float32) / size
    cx, cy = rng.uniform(0.1, 0.9, 2)
    angle = np.arctan2(y - cy, x - cx)
    edge = radius * (1 + 0.3 * np.sin(3 * angle + rng.uniform(0, 6)) + 0.15 * np.sin(5 * angle + rng.uniform(0, 6)))
    return np.hypot(x - cx, y - cy) < edge
