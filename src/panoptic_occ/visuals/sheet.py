"""A sheet of pictures: input, ground truth, the results side by side, and the pixels where two of them differ."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import itemgetter
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, ImageDraw
from torch import Tensor

from panoptic_occ.common.files import atomic_path
from panoptic_occ.structures.categories import Categories
from panoptic_occ.structures.panoptic_map import PanopticMap
from panoptic_occ.visuals.colors import Color, family, muted
from panoptic_occ.visuals.difference import BROKEN, FIXED, NEITHER, Difference, difference
from panoptic_occ.visuals.overlay import (
    DIFFERENCE_COLORS,
    VOID_COLOR,
    difference_overlay,
    font,
    hatch,
    overlay,
    segment_colors,
)

INK, QUIET, PAPER = (33, 37, 41), (108, 117, 125), (255, 255, 255)

_MARGIN, _GAP, _HEADER, _NOTE, _ROW_GAP = 28, 12, 40, 24, 18
_TITLE_SIZE, _NOTE_SIZE = 16, 13
_SWATCH = (30, 14)  # width, height
_SHADES = 3
_LINE, _ENTRY_GAP, _INDENT = 26, 22, 84


@dataclass(frozen=True, eq=False)
class SheetRow:
    """One image of a sheet: its ground truth and the results of several methods by name, all of one size.

    ``caption`` stands above the input, ``notes[name]`` above the panel of that name ("PQ 61.2").
    """

    image: UInt8[Tensor, "3 h w"]
    target: PanopticMap
    panels: Mapping[str, PanopticMap]
    caption: str = ""
    notes: Mapping[str, str] = field(default_factory=dict)


Cell = tuple[Image.Image, tuple[tuple[str, Color], ...]]
"""A picture and the coloured words above it."""


def sheet(
    rows: Sequence[SheetRow],
    categories: Categories,
    baseline: str = "score",
    method: str = "ocfusion",
    panel: int = 384,
) -> Image.Image:
    """Columns: input, ground truth, every panel, and where ``method`` differs from ``baseline``, unless they are equal.

    The longer side of a picture is at most ``panel`` px: small images grow by an integer factor, large ones shrink.
    Raises ValueError without rows, or when a row's panels differ from those of the first or lack one of the two names.
    """
    if not rows:
        raise ValueError("a sheet needs at least one row")
    names = list(rows[0].panels)
    for row in rows:
        if list(row.panels) != names or not {baseline, method} <= set(names):
            raise ValueError(
                f"row '{row.caption}' has the panels {list(row.panels)}; every row needs those of the first row, "
                f"{names}, and '{baseline}' and '{method}' among them"
            )
    titles = ["input", "ground truth", *names]
    if baseline != method:
        titles.append(f"{baseline} \N{RIGHTWARDS ARROW} {method}")
    cells = [list(_cells(row, categories, baseline, method, panel)) for row in rows]
    marks = {
        f"{method} right, {baseline} wrong": DIFFERENCE_COLORS[FIXED],
        f"{method} wrong, {baseline} right": DIFFERENCE_COLORS[BROKEN],
        "different, neither right": DIFFERENCE_COLORS[NEITHER],
    }
    column = max(picture.width for row_cells in cells for picture, _ in row_cells)
    width = len(titles) * (column + _GAP) - _GAP
    maps = [panoptic for row in rows for panoptic in (row.target, *row.panels.values())]
    return _compose(titles, cells, legend(width, maps, categories, marks if baseline != method else {}), column)


def save_sheet(path: Path, picture: Image.Image) -> None:
    """Writes a ``sheet`` as PNG; the file appears whole or not at all."""
    with atomic_path(path) as temporary:
        picture.save(temporary, format="PNG", compress_level=4)  # 3 % larger than with 6, in half of the time


class MostDifferent:
    """The ``k`` rows with the most pixels on which two methods differ, among all that were added; of equals the first.
    Holds ``k`` rows at a time."""

    def __init__(self, k: int, baseline: str = "score", method: str = "ocfusion") -> None:
        self.k = k
        self.baseline = baseline
        self.method = method
        self._added = 0
        self._best: list[tuple[int, int, SheetRow]] = []  # pixels, how late it came (negative), the row

    def add(self, row: SheetRow) -> None:
        """Looks at a row."""
        pixels = difference(row.panels[self.baseline], row.panels[self.method], row.target).pixels
        self._best = heapq.nlargest(self.k, [*self._best, (pixels, -self._added, row)], key=itemgetter(0, 1))
        self._added += 1

    @staticmethod
    def merged(parts: Sequence[MostDifferent]) -> MostDifferent:
        """What one alone would hold after the first row of every part, then the second of every part, ..."""
        whole = MostDifferent(parts[0].k, parts[0].baseline, parts[0].method)
        entries = ((n, -(-place * len(parts) + k), row) for k, part in enumerate(parts) for n, place, row in part._best)
        whole._best = heapq.nlargest(whole.k, entries, key=itemgetter(0, 1))
        whole._added = sum(part._added for part in parts)
        return whole

    def rows(self) -> list[SheetRow]:
        """The rows so far, the most different first."""
        return [row for _, _, row in self._best]


def _cells(row: SheetRow, categories: Categories, baseline: str, method: str, panel: int) -> Iterator[Cell]:
    """The pictures of one row, at the size they have on the sheet: lines and names stay thin and sharp."""
    height, width = row.target.ids.shape
    longest = max(height, width)
    scale = panel / longest if longest > panel else panel // longest
    size = (max(round(height * scale), 1), max(round(width * scale), 1))
    image = _resized(row.image, size)
    maps = [("ground truth", row.target), *row.panels.items()]  # a panel may have the same name
    colors = segment_colors([panoptic for _, panoptic in maps], categories)
    yield _picture(image.permute(1, 2, 0).numpy()), ((row.caption, INK),)
    for (name, panoptic), palette in zip(maps, colors, strict=True):
        shown = replace(panoptic, ids=torch.from_numpy(_nearest(panoptic.ids.cpu().numpy(), size)))
        yield _picture(overlay(image, shown, categories, palette)), ((row.notes.get(name, ""), INK),)
    if baseline != method:
        change = difference(row.panels[baseline], row.panels[method], row.target)
        small = Difference(_nearest(change.kind, size), change.fixed, change.broken, change.neither)
        target = replace(row.target, ids=torch.from_numpy(_nearest(row.target.ids.cpu().numpy(), size)))
        words = (
            (f"fixed {change.fixed:,} px", DIFFERENCE_COLORS[FIXED]),
            (f"broken {change.broken:,} px", DIFFERENCE_COLORS[BROKEN]),
        )
        yield _picture(difference_overlay(image, small, target)), words


def _compose(titles: Sequence[str], cells: Sequence[Sequence[Cell]], below: Image.Image, column: int) -> Image.Image:
    heights = [max(picture.height for picture, _ in row_cells) for row_cells in cells]
    width = below.width + 2 * _MARGIN
    table = _HEADER + sum(_NOTE + height + _ROW_GAP for height in heights)
    page = Image.new("RGB", (width, _MARGIN + table + below.height + _MARGIN), PAPER)
    draw = ImageDraw.Draw(page)
    lefts = [_MARGIN + k * (column + _GAP) for k in range(len(titles))]
    for left, title in zip(lefts, titles, strict=True):
        text = _shortened(title, column, _TITLE_SIZE, bold=True)
        draw.text((left, _MARGIN), text, font=font(_TITLE_SIZE, bold=True), anchor="la", fill=INK)
    y = _MARGIN + _HEADER - _GAP
    draw.line((_MARGIN, y - 2, width - _MARGIN, y - 2), fill=(222, 226, 230))
    for row_cells, height in zip(cells, heights, strict=True):
        for left, (picture, words) in zip(lefts, row_cells, strict=True):
            x = left
            for text, color in words:
                text = _shortened(text, left + column - x, _NOTE_SIZE)
                draw.text((x, y + _NOTE // 2 + 1), text, font=font(_NOTE_SIZE), anchor="lm", fill=color)
                x += round(font(_NOTE_SIZE).getlength(text)) + _GAP
            page.paste(picture, (left, y + _NOTE))
        y += _NOTE + height + _ROW_GAP
    page.paste(below, (_MARGIN, y))
    return page


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
    face = font(_NOTE_SIZE)
    picture = Image.new("RGB", (width, _LINE * sum(len(entries) for _, entries in groups)), PAPER)
    draw = ImageDraw.Draw(picture)
    y = 0
    for title, entries in groups:
        if not entries:
            continue
        x = _INDENT
        for k, (swatch, text) in enumerate(entries):
            step = _SWATCH[0] + 8 + round(face.getlength(text)) + _ENTRY_GAP
            if k and x + step - _ENTRY_GAP > width:
                x, y = _INDENT, y + _LINE
            middle = y + _LINE // 2
            picture.paste(swatch, (x, middle - _SWATCH[1] // 2))
            draw.text((x + _SWATCH[0] + 8, middle), text, font=face, anchor="lm", fill=INK)
            if k == 0:
                draw.text((0, middle), title, font=font(_NOTE_SIZE, bold=True), anchor="lm", fill=QUIET)
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


def _shortened(text: str, width: float, size: int, bold: bool = False) -> str:
    """``text``, its end replaced by an ellipsis when it is wider than ``width`` px."""
    length = font(size, bold).getlength
    if length(text) <= width:
        return text
    while text and length(text + "\N{HORIZONTAL ELLIPSIS}") > width:
        text = text[:-1]
    return text + "\N{HORIZONTAL ELLIPSIS}"


def _resized(image: UInt8[Tensor, "3 h w"], size: tuple[int, int]) -> UInt8[Tensor, "3 h w"]:
    picture = _picture(image.cpu().permute(1, 2, 0).numpy()).resize(size[::-1], Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)


def _nearest(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The map at another size: every new pixel takes the old one that its centre falls into."""
    rows, columns = (
        ((np.arange(new) + 0.5) * old / new).astype(int) for new, old in zip(size, values.shape, strict=True)
    )
    return values[np.ix_(rows, columns)]


def _picture(pixels: UInt8[np.ndarray, "h w 3"]) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(pixels))
