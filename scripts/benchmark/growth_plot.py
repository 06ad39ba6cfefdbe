"""The picture of ``growth``: time above, memory below, one column an image size, both axes logarithmic."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

if TYPE_CHECKING:
    from scripts.benchmark.growth import Point

# Colours that people with any colour vision can tell apart (Okabe and Ito 2008), and a shape for each line.
STYLES = (
    ("#E69F00", "o"),
    ("#0072B2", "s"),
    ("#CC79A7", "^"),
    ("#009E73", "D"),
    ("#D55E00", "v"),
    ("#56B4E9", "P"),
    ("#8C6D31", "X"),
    ("#777777", "<"),
    ("#000000", ">"),
)
QUANTITIES = (("ms", "time, ms"), ("mib", "peak memory, MiB"))
LEAST = {"ms": 0.1, "mib": 0.1}  # less does not matter, and would squeeze the rest
GUIDES = {1: ("slope of N", "dotted"), 2: ("slope of N\N{SUPERSCRIPT TWO}", "dashdot")}


def draw(points: Sequence[Point], path: Path) -> None:
    """Writes the picture as PNG."""
    sizes = list(dict.fromkeys(point.size for point in points))
    figure = Figure(figsize=(1.6 + 5 * len(sizes), 8.5), layout="constrained")
    grid = figure.subplots(len(QUANTITIES), len(sizes), sharex=True, sharey="row", squeeze=False)
    for row, (field, label) in enumerate(QUANTITIES):
        for column, size in enumerate(sizes):
            axes = grid[row][column]
            _lines(axes, [point for point in points if point.size == size], field)
            if row == 0:
                axes.set_title(f"{size[0]} x {size[1]} px", fontsize=13)
            if column == 0:
                axes.set_ylabel(label, fontsize=12)
            if row == len(QUANTITIES) - 1:
                axes.set_xlabel("instances", fontsize=12)
    handles, names = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside right upper", fontsize=11, frameon=False)
    figure.savefig(path, format="png", dpi=110)


def _lines(axes: Axes, points: Sequence[Point], field: str) -> None:
    counts = sorted({point.instances for point in points})
    for step, (color, marker) in zip(dict.fromkeys(point.step for point in points), STYLES, strict=False):
        found = [(p.instances, getattr(p, field)) for p in points if p.step == step and getattr(p, field) is not None]
        x, y = [count for count, _ in found], [max(value, LEAST[field]) for _, value in found]
        axes.plot(x, y, color=color, marker=marker, markersize=5, label=step)
    for power, (name, dashes) in GUIDES.items():
        y = [LEAST[field] * (count / counts[0]) ** power for count in counts]
        axes.plot(counts, y, color="#999999", linewidth=1, linestyle=dashes, label=name)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.xaxis.set_major_locator(FixedLocator(counts))
    axes.xaxis.set_minor_locator(NullLocator())
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.tick_params(labelsize=11)
    axes.grid(which="major", color="#dddddd", linewidth=0.8)
