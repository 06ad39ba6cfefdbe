"""The picture of a grid: what is drawn, read back from the axes."""

from __future__ import annotations

from pathlib import Path

import pytest
from matplotlib.figure import Figure
from PIL import Image

from panoptic_occ.visuals.grid_plot import GridPoint, save_grid

TAU, RHO = "fusion.min_visible", "occlusion.sig_ratio"


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are saved."""
    figures: list[Figure] = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda figure, *a, **k: [figures.append(figure), save(figure, *a, **k)])
    return figures


def test_one_setting_is_a_line_for_each_order(tmp_path: Path, drawn: list[Figure]) -> None:
    points = [GridPoint("score", {TAU: 0.4}, 0.50), GridPoint("score", {TAU: None}, 0.52)]
    points += [GridPoint("rap", {TAU: 0.4}, 0.60), GridPoint("rap", {TAU: None}, 0.58), GridPoint("random", {}, 0.45)]
    assert save_grid(tmp_path / "grid.png", points, "rap")
    (axes,) = drawn[0].axes
    lines = {line.get_label(): pytest.approx(list(line.get_ydata())) for line in axes.get_lines()}
    assert lines == {"score": [50, 52], "random": [45, 45], "rap": [60, 58]}
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["0.4", "None"]
    assert axes.get_xlabel() == TAU
    assert Image.open(tmp_path / "grid.png").width > 500


def test_two_settings_are_a_heat_map_of_the_method(tmp_path: Path, drawn: list[Figure]) -> None:
    points = [GridPoint("rap", {TAU: tau, RHO: rho}, tau + rho / 10) for tau in (0.4, 0.5, 0.6) for rho in (0.1, 0.2)]
    assert save_grid(tmp_path / "grid.png", [*points[:-1], GridPoint("score", {TAU: 0.4}, 0.9)], "rap")
    axes = drawn[0].axes[0]
    written = {text.get_position(): (text.get_text(), text.get_fontweight()) for text in axes.texts}
    assert written == {
        (0, 0): ("41.0", "normal"), (0, 1): ("42.0", "normal"), (1, 0): ("51.0", "normal"),
        (1, 1): ("52.0", "normal"), (2, 0): ("61.0", "bold"),
    }  # fmt: skip
    assert (axes.get_xlabel(), axes.get_ylabel()) == (TAU, RHO)
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["0.1", "0.2"]


@pytest.mark.parametrize("varied", [0, 3])
def test_other_grids_have_no_picture(tmp_path: Path, varied: int) -> None:
    names = "abc"[:varied]
    points = [GridPoint("rap", {"fixed": 1} | dict.fromkeys(names, value), 0.5) for value in (1, 2)]
    assert not save_grid(tmp_path / "grid.png", points, "rap")
    assert not list(tmp_path.iterdir())


def test_names_are_not_joined_by_a_line(tmp_path: Path, drawn: list[Figure]) -> None:
    points = [GridPoint("all runs", {"method": method}, 0.5) for method in ("rap", "oanet")]
    assert save_grid(tmp_path / "sweep.png", points, "all runs")
    axes = drawn[0].axes[0]
    assert [line.get_linestyle() for line in axes.get_lines()] == ["None"]
    assert axes.get_legend() is None
