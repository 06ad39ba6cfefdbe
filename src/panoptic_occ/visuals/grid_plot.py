"""PQ against the settings of a grid: a line for each order when one setting varies, a heat map when two do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from panoptic_occ.common.files import atomic_path

STYLES = (("#0072B2", "s"), ("#E69F00", "o"), ("#CC79A7", "^"), ("#56B4E9", "P"), ("#009E73", "D"), ("#777777", "<"))
"""Colours that people with any colour vision can tell apart (Okabe and Ito 2008), and a shape for each line."""
METHOD_STYLE = ("#D55E00", "v")


class GridPoint(NamedTuple):
    """An order (with its policy, if there are several) at a point of the grid, and its PQ, a fraction; ``settings``:
    those of the grid that this order has, by dotted key."""

    order: str
    settings: Mapping[str, object]
    pq: float


def save_grid(path: Path, points: Sequence[GridPoint], method: str) -> bool:
    """Writes the picture as PNG; False when the grid of ``method`` varies neither one nor two settings."""
    of_method = [point for point in points if point.order == method]
    keys = of_method[0].settings if of_method else ()
    varied = [key for key in keys if len({str(point.settings[key]) for point in of_method}) > 1]
    if len(varied) not in (1, 2):
        return False
    figure = Figure(figsize=(6.4, 4.8), layout="constrained")
    axes = figure.subplots()
    if len(varied) == 1:
        _lines(axes, points, varied[0], method)
    else:
        _heat_map(axes, of_method, varied[0], varied[1], method)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
    return True


def _lines(axes: Axes, points: Sequence[GridPoint], key: str, method: str) -> None:
    ticks = _ticks(points, key)
    has_numbers = any(type(point.settings.get(key)) in (int, float) for point in points)
    line = "solid" if has_numbers else "none"  # between two names there is nothing
    others = [order for order in dict.fromkeys(point.order for point in points) if order != method]
    styles = {order: STYLES[k % len(STYLES)] for k, order in enumerate(others)} | {method: METHOD_STYLE}
    for order, (color, marker) in styles.items():
        of_order = [point for point in points if point.order == order]
        if all(key in point.settings for point in of_order):
            x = [ticks.index(str(point.settings[key])) for point in of_order]
            y = [100 * point.pq for point in of_order]
            axes.plot(x, y, color=color, marker=marker, markersize=6, linestyle=line, label=order)
        else:  # this order does not have the setting
            axes.axhline(100 * of_order[0].pq, color=color, linestyle="dashed", label=order)
    axes.set_xticks(range(len(ticks)), ticks)
    axes.set_xlabel(key)
    axes.set_ylabel("PQ, percent")
    axes.grid(color="#dddddd", linewidth=0.8)
    if others:
        axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))


def _heat_map(axes: Axes, points: Sequence[GridPoint], column: str, row: str, method: str) -> None:
    columns, rows = _ticks(points, column), _ticks(points, row)
    values = np.full((len(rows), len(columns)), np.nan)
    for point in points:
        values[rows.index(str(point.settings[row])), columns.index(str(point.settings[column]))] = 100 * point.pq
    picture = axes.imshow(values, cmap="cividis", origin="lower", aspect="auto")
    dark = np.nanmean([np.nanmin(values), np.nanmax(values)])
    best = np.nanmax(values)
    for y, x in zip(*np.nonzero(~np.isnan(values)), strict=True):
        value = values[y, x]
        weight = "bold" if value == best else "normal"
        axes.text(x, y, f"{value:.1f}", ha="center", va="center", weight=weight, color="w" if value < dark else "k")
    axes.set_xticks(range(len(columns)), columns)
    axes.set_yticks(range(len(rows)), rows)
    axes.set_xlabel(column)
    axes.set_ylabel(row)
    axes.set_title(f"PQ of {method}, percent")
    axes.figure.colorbar(picture, ax=axes)


def _ticks(points: Sequence[GridPoint], key: str) -> list[str]:
    """The values of a setting in the order of the grid, evenly spaced: some are null, and steps differ widely."""
    return list(dict.fromkeys(str(point.settings[key]) for point in points if key in point.settings))
