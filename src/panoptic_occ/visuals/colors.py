"""Colours of instances: one hue family per class, far apart inside the family, the same in every run."""

from __future__ import annotations

from functools import cache

import numpy as np
from jaxtyping import Float

Color = tuple[int, int, int]

# OKLab (Ottosson 2020): equal distances look about equally different, which RGB and HSV do not give.
_LINEAR_TO_LMS = np.array([
    [0.4122214708, 0.5363325363, 0.0514459929],
    [0.2119034982, 0.6806995451, 0.1073969566],
    [0.0883024619, 0.2817188376, 0.6299787005],
])  # fmt: skip
_LMS_TO_LAB = np.array([
    [0.2104542553, 0.7936177850, -0.0040720468],
    [1.9779984951, -2.4285922050, 0.4505937099],
    [0.0259040371, 0.7827717662, -0.8086757660],
])  # fmt: skip

_LIGHTNESS = np.linspace(0.46, 0.88, 8)
_RELATIVE_CHROMA = np.linspace(0.45, 1.2, 5)
_LEAST_CHROMA = 0.09  # a grey class stays pale, yet its instances need some colour to be told apart
_HUE_SHIFT = np.deg2rad(np.linspace(-22, 22, 7))


def oklab(rgb: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 3"]:
    """OKLab (lightness, a, b) of sRGB colours in [0, 1]."""
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return np.cbrt(linear @ _LINEAR_TO_LMS.T) @ _LMS_TO_LAB.T


def srgb(lab: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 3"]:
    """sRGB of OKLab colours; values outside [0, 1] mean that no screen can show the colour."""
    linear = (lab @ np.linalg.inv(_LMS_TO_LAB).T) ** 3 @ np.linalg.inv(_LINEAR_TO_LMS).T
    return np.where(linear <= 0.0031308, linear * 12.92, 1.055 * np.maximum(linear, 0) ** (1 / 2.4) - 0.055)


@cache
def family(color: Color) -> tuple[Color, ...]:
    """Colours for the instances of a class of ``color`` (RGB, 0..255), ``color`` itself first.

    Each next colour is the one of the hue family that lies farthest from all before it, so that a class with few
    instances gets clearly different ones.
    """
    base = oklab(np.array([color]) / 255)
    chroma, hue = np.hypot(base[0, 1], base[0, 2]), np.arctan2(base[0, 2], base[0, 1])
    chromas = max(chroma, _LEAST_CHROMA) * _RELATIVE_CHROMA
    grid = np.meshgrid(_LIGHTNESS, chromas, hue + _HUE_SHIFT, indexing="ij")
    light, saturation, angle = (axis.reshape(-1) for axis in grid)
    lab = np.stack([light, saturation * np.cos(angle), saturation * np.sin(angle)], axis=1)
    rgb = srgb(lab)
    visible = ((rgb >= 0) & (rgb <= 1)).all(axis=1)
    lab, rgb = lab[visible], np.rint(rgb[visible] * 255).astype(int)

    chosen = [color]
    distance = np.linalg.norm(lab - base, axis=1)
    for _ in range(len(lab)):
        farthest = int(distance.argmax())
        if distance[farthest] == 0:
            break
        red, green, blue = rgb[farthest].tolist()
        chosen.append((red, green, blue))
        distance = np.minimum(distance, np.linalg.norm(lab - lab[farthest], axis=1))
    return tuple(dict.fromkeys(chosen))


@cache
def muted(color: Color) -> Color:
    """A greyer ``color`` of the same hue and lightness: the background that things stand out from."""
    lab = oklab(np.array([color]) / 255) * np.array((1, 0.5, 0.5))
    red, green, blue = np.rint(srgb(lab)[0].clip(0, 1) * 255).astype(int).tolist()
    return red, green, blue


def instance_color(color: Color, number: int) -> Color:
    """Colour of instance ``number`` (0, 1, ...) of a class of ``color``; a family repeats after some dozens."""
    shades = family(color)
    return shades[number % len(shades)]
