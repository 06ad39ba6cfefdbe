"""Where the objects of a scene lie and who lies in front: the mix of pairs that the scenes are made of.

A scene is two or three anchors, each with a few partners.  Every partner overlaps its anchor in one of five ways:

=============  =======================================================  ==============================
kind           geometry                                                 what gives the order
=============  =======================================================  ==============================
``prior``      a small badge class on a large body class                the pair of classes, always
``cover``      a large cover class, hides a third or so of the smaller  the pair of classes, always
``small``      smaller in front, most of it over the anchor             appearance only
``large``      larger in front, hides a third or so of the smaller      appearance only
``equal``      about the same size, a coin decides                      appearance only
=============  =======================================================  ==============================

As in photographs, the classes settle some of the pairs (a tie lies on a person), with the smaller one in front or the
larger.  The classes of the last three kinds (of some pairs the same), all colours and directions do not depend on the
order, and the file order is shuffled: size and index say little about the order, the picture says all.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from panoptic_occ.data.scenes.shapes import PATTERNS, SHAPES

BODIES = ("tile", "disc", "hexagon")
BADGES = ("diamond", "drop")
COVERS = ("plus", "star")
THINGS = tuple(SHAPES)
NEUTRAL = tuple(name for name in THINGS if name not in BADGES + COVERS)
PATTERN_OF = dict(zip(SHAPES, PATTERNS, strict=True))


@dataclass(frozen=True)
class Kind:
    """A kind of pair: classes of its anchor, bounds of the share of the smaller mask that both have in common, and
    bounds of the radii, as shares of the image side."""

    anchors: tuple[str, ...]
    overlap: tuple[float, float]
    anchor_radius: tuple[float, float]
    partner_radius: tuple[float, float]


KINDS = {
    "prior": Kind(BODIES, overlap=(0.75, 1.0), anchor_radius=(0.20, 0.30), partner_radius=(0.09, 0.13)),
    "cover": Kind(COVERS, overlap=(0.24, 0.44), anchor_radius=(0.20, 0.30), partner_radius=(0.11, 0.17)),
    "small": Kind(NEUTRAL, overlap=(0.6, 1.0), anchor_radius=(0.20, 0.30), partner_radius=(0.09, 0.15)),
    "large": Kind(NEUTRAL, overlap=(0.24, 0.44), anchor_radius=(0.20, 0.30), partner_radius=(0.11, 0.17)),
    "equal": Kind(NEUTRAL, overlap=(0.22, 0.4), anchor_radius=(0.15, 0.21), partner_radius=(0.15, 0.21)),
}


@dataclass(frozen=True)
class Mix:
    """Shares of the kinds of pairs, and of same-class pairs among those decided by appearance."""

    prior: float = 0.35
    cover: float = 0.35
    small: float = 0.1
    large: float = 0.12
    equal: float = 0.08
    same_class: float = 0.25

    def kinds(self) -> tuple[tuple[str, ...], NDArray[np.float64]]:
        """Names and normalised probabilities of the kinds of pairs."""
        weights = np.array([getattr(self, kind) for kind in KINDS])
        if (weights < 0).any() or weights.sum() <= 0:
            raise ValueError(f"the shares of a pair mix must be >= 0 and not all zero, got {weights.tolist()}")
        return tuple(KINDS), weights / weights.sum()


@dataclass(frozen=True)
class Thing:
    """One object before painting: class, centre and radius in pixels, rotation in radians."""

    name: str
    x: float
    y: float
    radius: float
    angle: float


@dataclass
class Layout:
    """Objects, their full masks, and their order from back to front (``order[k]`` is the k-th painted)."""

    things: list[Thing] = field(default_factory=list)
    masks: list[NDArray[np.bool_]] = field(default_factory=list)
    order: list[int] = field(default_factory=list)


REACH = 1.35
"""No shape reaches farther than this many radii from its centre."""
MIN_VISIBLE, MAX_MUTUAL = 0.55, 0.4


def window(thing: Thing, size: int) -> tuple[slice, slice]:
    """Rows and columns of the image that the object can touch (possibly empty)."""
    low_y, low_x = (max(0, int(np.floor(c - REACH * thing.radius))) for c in (thing.y, thing.x))
    high_y, high_x = (max(0, min(size, int(np.ceil(c + REACH * thing.radius)))) for c in (thing.y, thing.x))
    return slice(low_y, max(low_y, high_y)), slice(low_x, max(low_x, high_x))


def local_frame(thing: Thing, rows: slice, columns: slice) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Coordinates of the pixel centres of a window in the object's own frame (unit radius, unrotated)."""
    y, x = np.mgrid[rows, columns].astype(np.float32) + np.float32(0.5)
    cos, sin = np.float32(np.cos(thing.angle)), np.float32(np.sin(thing.angle))
    dx, dy = (x - thing.x) / thing.radius, (y - thing.y) / thing.radius
    return cos * dx + sin * dy, -sin * dx + cos * dy


def full_mask(thing: Thing, size: int) -> NDArray[np.bool_]:
    """The object's full mask, as far as it lies inside the image."""
    mask = np.zeros((size, size), bool)
    where = window(thing, size)
    mask[where] = SHAPES[thing.name](*local_frame(thing, *where)) < 0
    return mask


class LayoutBuilder:
    """Builds the layout of one scene by rejection: a partner is placed until its overlap fits its kind.

    No object ends up with less than MIN_VISIBLE of its area visible, and no two cover each other by more than
    MAX_MUTUAL of both (they would be duplicates to any fusion).
    """

    def __init__(self, size: int, mix: Mix, rng: np.random.Generator) -> None:
        self.size, self.mix, self.rng = size, mix, rng
        self.layout = Layout()

    def build(self) -> Layout:
        """Places everything."""
        names, weights = self.mix.kinds()
        for _ in range(int(self.rng.integers(2, 4))):
            picks = [str(k) for k in self.rng.choice(names, size=int(self.rng.integers(1, 4)), p=weights)]
            # an anchor is a body, a cover or neither, so the kinds that need another class become the first kind
            kinds = [kind if KINDS[kind].anchors == KINDS[picks[0]].anchors else picks[0] for kind in picks]
            anchor = self._add_anchor(kinds[0])
            if anchor is not None:
                for kind in kinds:
                    self._add_partner(anchor, kind)
        return self.layout

    def _add_anchor(self, kind: str) -> int | None:
        for _ in range(20):
            candidate = self._draw(str(self.rng.choice(KINDS[kind].anchors)), self._radius(KINDS[kind].anchor_radius))
            position = int(self.rng.integers(0, len(self.layout.order) + 1))
            if self._place(candidate, position, full_mask(candidate, self.size), max_overlap=0.15):
                return len(self.layout.things) - 1
        return None

    def _add_partner(self, anchor: int, kind: str) -> None:
        body = self.layout.things[anchor]
        low, high = KINDS[kind].overlap
        front = {"prior": True, "cover": False, "small": True, "large": False, "equal": self.rng.random() < 0.5}[kind]
        if kind in ("prior", "cover"):
            name = str(self.rng.choice(BADGES if kind == "prior" else NEUTRAL))
        else:
            name = body.name if self.rng.random() < self.mix.same_class else str(self.rng.choice(NEUTRAL))
        for _ in range(40):
            radius = self._radius(KINDS[kind].partner_radius)
            reach = body.radius + radius
            angle, away = self.rng.uniform(0, 2 * np.pi), np.sqrt(self.rng.uniform(0, 1)) * reach
            candidate = self._draw(name, radius, body.x + away * np.cos(angle), body.y + away * np.sin(angle))
            mask = full_mask(candidate, self.size)
            area, anchor_area = int(mask.sum()), int(self.layout.masks[anchor].sum())
            if area == 0:
                continue
            common = int((mask & self.layout.masks[anchor]).sum()) / min(area, anchor_area)
            sized = kind == "equal" or area < 0.6 * anchor_area
            if not (low <= common <= high and sized):
                continue
            at = self.layout.order.index(anchor)
            bounds = (at + 1, len(self.layout.order) + 1) if front else (0, at + 1)
            if self._place(candidate, int(self.rng.integers(*bounds)), mask):
                return

    def _radius(self, bounds: tuple[float, float]) -> float:
        return float(self.rng.uniform(*bounds)) * self.size

    def _draw(self, name: str, radius: float, x: float | None = None, y: float | None = None) -> Thing:
        x = float(self.rng.uniform(0.08, 0.92)) * self.size if x is None else x
        y = float(self.rng.uniform(0.08, 0.92)) * self.size if y is None else y
        return Thing(name, x, y, radius, float(self.rng.uniform(0, 2 * np.pi)))

    def _place(self, candidate: Thing, position: int, mask: NDArray[np.bool_], max_overlap: float = 1.0) -> bool:
        """Adds the object at a position of the painting order, if everybody stays visible enough."""
        area = int(mask.sum())
        full = np.pi * candidate.radius**2
        if area < 0.35 * full or area < 40 * (self.size / 128) ** 2:
            return False  # mostly outside the image
        for other in self.layout.masks:
            common = int((mask & other).sum())
            smaller, larger = sorted((area, int(other.sum())))
            if common / larger > MAX_MUTUAL or common / smaller > max_overlap:
                return False
        masks = [*self.layout.masks, mask]
        order = [*self.layout.order[:position], len(masks) - 1, *self.layout.order[position:]]
        covered = np.zeros_like(mask)
        for index in reversed(order):
            visible = int((masks[index] & ~covered).sum())
            if visible < MIN_VISIBLE * int(masks[index].sum()):
                return False
            covered |= masks[index]
        self.layout = Layout([*self.layout.things, candidate], masks, order)
        return True
