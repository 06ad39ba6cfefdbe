"""The numbers that the report of growth is made of, against closed forms."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from panoptic_occ.structures.masks import PairStats
from scripts.benchmark import growth
from scripts.benchmark.growth import Plan, Point, exponent, markdown, measure

TINY = Plan(counts=(4, 9), sizes=((64, 96),), channels=8, limit_s=0.0)


def test_the_exponent_of_a_power_is_exact() -> None:
    for k in (0.0, 1.0, 1.7, 2.0):
        assert exponent([(x, 3 * x**k) for x in (10.0, 20.0, 50.0, 400.0)]) == pytest.approx(k, abs=1e-9)
    assert np.isnan(exponent([(5.0, 1.0), (5.0, 2.0)])) and np.isnan(exponent([]))


def test_the_exponent_is_that_of_least_squares() -> None:
    points = [(1.0, 1.0), (10.0, 10.0), (100.0, 10000.0)]
    assert exponent(points) == pytest.approx(2.0)  # (-1)(0 - 5/3) + (1)(4 - 5/3) over 2


@pytest.fixture(scope="module")
def points() -> list[Point]:
    return measure(TINY)


def test_every_step_is_measured_until_it_is_too_slow(points: list[Point]) -> None:
    assert [(p.step, p.instances) for p in points] == [(step, n) for n in TINY.counts for step in growth.STEPS]
    few, more = points[: len(growth.STEPS)], points[len(growth.STEPS) :]
    assert all(p.ms is not None and p.ms > 0 for p in few)
    assert all(p.ms is None and p.mib is None for p in more), "no time is short enough for a limit of 0 s"


def test_the_pairs_are_counted(points: list[Point]) -> None:
    for count in TINY.counts:
        dense = growth.scene(count, TINY.sizes[0], 1).masks.dense().flatten(1).double()
        common, area = dense @ dense.T, dense.sum(dim=1)
        shares = torch.maximum(common / area[:, None], common / area[None, :])
        pairs = int((shares >= 0.2).triu(diagonal=1).sum())
        assert {p.pairs for p in points if p.instances == count} == {pairs}
    assert max(p.pairs for p in points) > 0


def test_what_was_left_out_is_shown_as_such(points: list[Point]) -> None:
    assert f"| 9 | {points[-1].pairs} |{' - |' * len(growth.STEPS)}" in markdown(points)


def test_no_run_finds_what_another_left_behind() -> None:
    instances = growth.scene(5, (64, 96), 4)
    context = growth.image_context((64, 96))
    seen = []

    class Spy(torch.nn.Module):
        def forward(self, found: object, *_: object) -> None:
            seen.append(found)

    stats = PairStats.of(instances.masks)
    run = dict(growth.steps(instances, stats, context, {"spy": Spy()}))["spy"]  # type: ignore[dict-item]
    run(), run()
    assert seen[0].masks is not seen[1].masks and seen[0].masks.pixels is instances.masks.pixels


def test_the_tables_read_the_points() -> None:
    times = {10: 10.0, 100: 1000.0, 1000: 10000.0}  # steeper at first
    points = [
        Point(step, (10, 20), n, 2 * n, ms=ms if step == "RAP" else n**0.3, mib=None if step == "OANet" else 0.5 * n)
        for n, ms in times.items()
        for step in growth.STEPS
    ]
    text = markdown(points)
    assert "| RAP | 1.5 | 2.0 | 1.5 | 1.0 |" in text and "| OANet | 0.3 | 0.3 | 0.3 | - |" in text
    assert "| 100 | 200 | 3.98 | 3.98 | 3.98 | 1e+03 | 3.98 |" in text


def test_it_writes_numbers_tables_and_a_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    points = [Point(step, (10, 20), n, n, ms=float(n), mib=None if n > 5 else 1.0) for n in (5, 9) for step in "ab"]
    monkeypatch.setattr(growth, "measure", lambda plan: points)
    monkeypatch.setattr(growth, "STEPS", ("a", "b"))
    growth.run(tmp_path / "results", quick=True)
    stored = json.loads((tmp_path / "results" / "growth.json").read_text())
    assert [Point(**{**p, "size": tuple(p["size"])}) for p in stored["points"]] == points
    assert (tmp_path / "results" / "growth.md").read_text().startswith("# How cost grows")
    with Image.open(tmp_path / "docs" / "growth.png") as picture:
        assert min(picture.size) > 500 and len(picture.getcolors(1 << 24)) > 10
