"""Shapes, patterns and grounds of the painted scenes: plain functions of pixel coordinates.

Shapes are signed distances (negative inside) in an object's own frame, where the object has about unit radius.
Patterns and grounds are values in [0, 1] that mix two colours.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.float32]
Shape = Callable[[Field, Field], Field]


def _polygon(corners: NDArray[np.float32]) -> Shape:
    """Signed distance to a closed polygon (corners in order, even-odd inside)."""

    def distance(x: Field, y: Field) -> Field:
        nearest = np.full(x.shape, np.inf, np.float32)
        inside = np.zeros(x.shape, bool)
        for (ax, ay), (bx, by) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
            ex, ey = bx - ax, by - ay
            t = np.clip(((x - ax) * ex + (y - ay) * ey) / (ex * ex + ey * ey), 0, 1)
            nearest = np.minimum(nearest, np.hypot(x - ax - t * ex, y - ay - t * ey))
            if ey != 0:
                inside ^= ((ay > y) != (by > y)) & (x < ax + (y - ay) / ey * ex)
        return np.where(inside, -nearest, nearest).astype(np.float32)

    return distance


def _regular(n: int, inner: float | None = None) -> NDArray[np.float32]:
    """Corners of a regular n-gon of radius 1, or of an n-pointed star with the given inner radius."""
    count = n if inner is None else 2 * n
    angle = 2 * np.pi * np.arange(count) / count - np.pi / 2
    radius = np.ones(count) if inner is None else np.where(np.arange(count) % 2 == 0, 1.15, inner)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).astype(np.float32)


def _disc(x: Field, y: Field) -> Field:
    return np.hypot(x, y) - np.float32(0.92)


def _tile(x: Field, y: Field) -> Field:
    dx, dy = np.abs(x) - 0.62, np.abs(y) - 0.62
    return np.hypot(np.maximum(dx, 0), np.maximum(dy, 0)) + np.minimum(np.maximum(dx, dy), 0) - np.float32(0.18)


def _pill(x: Field, y: Field) -> Field:
    return np.hypot(np.maximum(np.abs(x) - 0.62, 0), y) - np.float32(0.5)


def _plus(x: Field, y: Field) -> Field:
    bars = [np.maximum(np.abs(x) - a, np.abs(y) - b) for a, b in ((1.0, 0.42), (0.42, 1.0))]
    return np.minimum(*bars)


def _drop(x: Field, y: Field) -> Field:
    return np.hypot(x, np.where(y < 0, 0.62 * y, 1.15 * y)) * (1 + 0.35 * np.clip(-y, 0, None)) - np.float32(0.78)


SHAPES: dict[str, Shape] = {
    "disc": _disc,
    "tile": _tile,
    "triangle": _polygon(1.05 * _regular(3)),
    "star": _polygon(_regular(5, 0.55)),
    "plus": _plus,
    "pill": _pill,
    "hexagon": _polygon(_regular(6)),
    "drop": _drop,
    "diamond": _polygon(np.array([[0, -1], [0.72, 0], [0, 1], [-0.72, 0]], np.float32)),
}


def _wave(phase: NDArray[Any]) -> Field:
    return (0.5 + 0.5 * np.sin(2 * np.pi * phase)).astype(np.float32)


PATTERNS: dict[str, Callable[[Field, Field], NDArray[Any]]] = {
    "stripes": lambda x, y: _wave(1.6 * x),
    "rings": lambda x, y: _wave(1.7 * np.hypot(x, y)),
    "checks": lambda x, y: (_wave(1.1 * x) > 0.5) ^ (_wave(1.1 * y) > 0.5),
    "dots": lambda x, y: _wave(1.4 * x) * _wave(1.4 * y) > 0.42,
    "plain": lambda x, y: np.zeros_like(x),
    "sectors": lambda x, y: _wave(3 * np.arctan2(y, x) / (2 * np.pi)) > 0.5,
    "bars": lambda x, y: _wave(1.3 * (x + y)) > 0.5,
    "core": lambda x, y: np.hypot(x, y) < 0.45,
    "split": lambda x, y: x > 0,
}


def grass(x: Field, y: Field, rng: np.random.Generator) -> Field:
    """Upright streaks of noise; x, y in image widths."""
    columns = rng.random(4 * x.shape[1] + 8).astype(np.float32)
    shift = (6 * np.sin(9 * y)).astype(np.int64)
    return columns[np.clip((x * x.shape[1]).astype(np.int64) + shift + 8, 0, len(columns) - 1)]


def bricks(x: Field, y: Field, rng: np.random.Generator) -> Field:
    """Courses of bricks with light joints."""
    row = np.floor(y * 13)
    joint = (np.mod(y * 13, 1) < 0.2) | (np.mod(x * 7 + 0.5 * np.mod(row, 2) + rng.random(), 1) < 0.12)
    return np.where(joint, 1.0, 0.15).astype(np.float32)


def water(x: Field, y: Field, rng: np.random.Generator) -> Field:
    """Level waves."""
    return _wave(11 * y + 0.35 * np.sin(14 * x + 6 * rng.random()) + rng.random())


def sand(x: Field, y: Field, rng: np.random.Generator) -> Field:
    """Fine speckles on a flat ground."""
    return (rng.random(x.shape) ** 6).astype(np.float32)


GROUNDS: dict[str, Callable[[Field, Field, np.random.Generator], Field]] = {
    "grass": grass,
    "bricks": bricks,
    "water": water,
    "sand": sand,
}
