"""The legend of a sheet: classes that occur, and what hatching and the colours of differences mean."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw

from panoptic_occ.structures.categories import Categories
from panoptic_occ.structures.panoptic_map import PanopticMap
from panoptic_occ.visuals.colors import Color, family, muted
from panoptic_occ.visuals.overlay import VOID_COLOR, font, hatch

INK, QUIET, PAPER = (33, 37, 41), (108, 117, 125), (255, 255, 255)

_SWATCH = (30, 14)  # width, height
_SHADES = 3
_TEXT_SIZE, _LINE, _GAP, _INDENT = 13, 26, 22, 84


def legend(
    width: int, maps: Iterable[PanopticMap], categories: Categories, differences: Mapping[str, Color]
) -> Image.Image:
    """Rows of swatches, ``width`` px wide: things (in several shades, as instances are), stuff, and marks."""
    labels = {segment.label for panoptic in maps for segment in panoptic.segments}
    present = [categories[label] for label in sorted(labels)]
    marks = [(_striped(VOID_COLOR, 0.3), "VOID"), (_striped((128, 134, 148), 0.6), "crowd region")]
    groups = [
        ("things", [(_shades(family(c.color)[:_SHADES]), c.name) for c in present if c.isthing]),
        ("stuff", [(_shades([muted(c.color)]), c.name) for c in present if not c.isthing]),
        ("marks", marks + [(_shades([color]), text) for text, color in differences.items()]),
    ]
    face = font(_TEXT_SIZE)
    picture = Image.new("RGB", (width, _LINE * sum(len(entries) for _, entries in groups)), PAPER)
    draw = ImageDraw.Draw(picture)
    y = 0
    for title, entries in groups:
        if not entries:
            continue
        x = _INDENT
        for k, (swatch, text) in enumerate(entries):
            step = _SWATCH[0] + 8 + round(face.getlength(text)) + _GAP
            if k and x + step - _GAP > width:
                x, y = _INDENT, y + _LINE
            middle = y + _LINE // 2
            picture.paste(swatch, (x, middle - _SWATCH[1] // 2))
            draw.text((x + _SWATCH[0] + 8, middle), text, font=face, anchor="lm", fill=INK)
            if k == 0:
                draw.text((0, middle), title, font=font(_TEXT_SIZE, bold=True), anchor="lm", fill=QUIET)
            x += step
        y += _LINE
    return picture.crop((0, 0, width, y))  # at first it was high enough for a line each


def _shades(colors: Sequence[Color]) -> Image.Image:
    columns = np.arange(_SWATCH[0]) * len(colors) // _SWATCH[0]
    row = np.array(colors, dtype=np.uint8)[columns]
    return Image.fromarray(np.repeat(row[None], _SWATCH[1], axis=0))


def _striped(color: Color, strength: float) -> Image.Image:
    pixels = np.array(_shades([color]), dtype=np.float64)
    pixels[hatch(pixels.shape[:2])] *= 1 - strength
    pixels[hatch(pixels.shape[:2])] += 255 * strength
    return Image.fromarray(pixels.astype(np.uint8))
