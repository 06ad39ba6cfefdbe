"""Means, spreads, gains and directions against numbers worked out by hand."""

from __future__ import annotations

import pytest

from scripts.tables.comparison import Cell, Estimate, Line, PaperNumbers, direction


def cells(lines: list[Line], column: int = 0) -> dict[str, Cell]:
    return {line.row.name: line.cells[column] for line in lines}


def test_mean_and_spread_over_the_seeds_in_percent(lines: list[Line]) -> None:
    estimate = cells(lines)["up"].measured
    assert estimate is not None
    assert estimate.mean == pytest.approx(52.5) and estimate.spread == pytest.approx(1.5) and estimate.n == 3


def test_gains_are_paired_by_seed(lines: list[Line]) -> None:
    """up: +1.0, +2.0, +1.5; unpaired, the spread would be over 1.5."""
    gain = cells(lines)["up"].gain
    assert gain is not None
    assert gain.mean == pytest.approx(1.5) and gain.spread == pytest.approx(0.5)
    assert cells(lines)["Base"].gain is None and cells(lines)["Base"].printed_gain is None


def test_published_gain_is_the_printed_one_else_the_difference(lines: list[Line], papers: PaperNumbers) -> None:
    assert cells(lines)["up"].printed_gain == 1.9
    assert cells(lines)["down"].printed_gain == pytest.approx(0.5)
    assert papers.gain("ocfusion", ("3", "no such row"), ("3", "Base"), "R50", "PQ") is None
    assert cells(lines)["up"].note == "sic; 1.8 by the rows"


def test_directions(lines: list[Line]) -> None:
    assert {name: cell.direction for name, cell in cells(lines).items()} == {
        "Base": "",
        "up": "same",
        "down": "opposite",  # -1.0, -2.0, -1.0 against +0.5
        "noisy": "within spread",  # +0.1, -0.1, +0.2
        "off*": "",  # not measured
    }


def test_what_is_missing_stays_missing(lines: list[Line]) -> None:
    accuracy = cells(lines, 1)["down"]
    assert accuracy.measured is None and accuracy.printed == "90.25" and accuracy.direction == ""
    assert lines[-1].problem == "nothing stands for R50 on this data" and lines[-1].seeds == 0


@pytest.mark.parametrize(
    ("gain", "spread", "printed", "expected"),
    [
        (0.3, None, 1.0, "same"), (-0.3, None, 1.0, "opposite"), (-0.3, None, -2.0, "same"), (0.31, 0.3, 1.0, "same"),
        (0.3, 0.3, 1.0, "within spread"), (0.0, 0.0, 1.0, "within spread"), (0.4, 0.5, 0.0, "within spread"),
        (0.04, None, 1.0, "no change"), (0.04, None, 0.0, "same"), (0.04, 0.5, 0.0, "same"), (0.4, None, 0.0, "unlike"),
    ],
)  # fmt: skip
def test_direction(gain: float, spread: float | None, printed: float, expected: str) -> None:
    assert direction(Estimate(gain, spread, 1 if spread is None else 3), printed) == expected


def test_one_seed_has_no_spread() -> None:
    assert Estimate.of([2.0]) == Estimate(2.0, None, 1) and Estimate.of([]) is None
