"""What is measured in place of the jobs: growth against closed forms, throughput and options on tiny runs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from panoptic_occ.structures.masks import PairStats
from scripts.benchmark import growth, options, throughput
from scripts.benchmark.checks import MismatchError
from scripts.benchmark.growth import Point, exponent, measure, report
from scripts.suite import Run

COUNTS, SIZE = (4, 9), (64, 96)


def test_the_exponent_of_a_power_is_exact() -> None:
    for k in (0.0, 1.0, 1.7, 2.0):
        assert exponent([(x, 3 * x**k) for x in (10.0, 20.0, 50.0, 400.0)]) == pytest.approx(k, abs=1e-9)
    assert np.isnan(exponent([(5.0, 1.0), (5.0, 2.0)])) and np.isnan(exponent([]))


@pytest.fixture(scope="module")
def points() -> list[Point]:
    return measure(COUNTS, [SIZE], channels=8, limit_ms=0.0)


def test_every_step_is_measured_until_it_is_too_slow(points: list[Point]) -> None:
    assert [(p.step, p.instances) for p in points] == [(step, n) for n in COUNTS for step in growth.STEPS]
    few, more = points[: len(growth.STEPS)], points[len(growth.STEPS) :]
    assert all(p.ms is not None and p.ms > 0 for p in few)
    assert all(p.ms is None and p.mib is None for p in more), "no time is short enough for a limit of 0 s"


def test_the_pairs_are_counted(points: list[Point]) -> None:
    for count in COUNTS:
        dense = growth.scene(count, SIZE, 1).masks.dense().flatten(1).double()
        common, area = dense @ dense.T, dense.sum(dim=1)
        shares = torch.maximum(common / area[:, None], common / area[None, :])
        pairs = int((shares >= 0.2).triu(diagonal=1).sum())
        assert {p.pairs for p in points if p.instances == count} == {pairs}
    assert max(p.pairs for p in points) > 0


def test_what_was_left_out_is_shown_as_such(points: list[Point]) -> None:
    assert f"|9|{points[-1].pairs}|{'-|' * len(growth.STEPS)}" in report(points).replace(" ", "")


def test_no_run_finds_what_another_left_behind() -> None:
    instances = growth.scene(5, SIZE, 4)
    context = growth.image_context(SIZE)
    seen = []

    class Spy(torch.nn.Module):
        def forward(self, instances: object, *_: object) -> None:
            seen.append(instances)

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
    text = report(points).replace(" ", "")
    assert "|RAP|1.5|2.0|1.5|1.0|" in text and "|OANet|0.3|0.3|0.3|-|" in text
    assert "|100|200|3.98|3.98|3.98|1e+03|3.98|" in text


def test_it_writes_numbers_tables_and_a_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    points = [Point(step, (10, 20), n, n, ms=float(n), mib=None if n > 5 else 1.0) for n in (5, 9) for step in "ab"]
    monkeypatch.setattr(growth, "measure", lambda *_, **__: points)
    monkeypatch.setattr(growth, "STEPS", ("a", "b"))
    growth.run(tmp_path / "results", quick=True)
    stored = json.loads((tmp_path / "results" / "growth.json").read_text())
    assert [Point(**{**p, "size": tuple(p["size"])}) for p in stored["points"]] == points
    assert (tmp_path / "results" / "growth.md").read_text().startswith("# How cost grows")
    with Image.open(tmp_path / "docs" / "growth.png") as picture:
        assert min(picture.size) > 500 and len(picture.getcolors(1 << 24)) > 10


def test_every_work_has_a_speed(tmp_path: Path) -> None:
    throughput.run(tmp_path, quick=True)
    stored = json.loads((tmp_path / "throughput.json").read_text())
    assert [work["images"] > 0 and work["seconds"] > 0 for work in stored["work"]] == [True] * 4
    assert [work["target"] for work in stored["work"]] == [100, None, 200, None]
    assert 1 < stored["kilobytes_an_image"] < 150
    assert (tmp_path / "throughput.md").read_text().count("\n|") == 6


def test_the_numbers_of_options_are_those_of_the_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    options.run(tmp_path, quick=True)
    name = next(path.stem for path in tmp_path.glob("*.json"))
    stored = json.loads((tmp_path / f"{name}.json").read_text())
    (row,) = stored["options"].values()
    assert list(row) == list(options.COLUMNS)
    assert all(value > 0 for column, value in row.items() if column not in ("memory, GB", "network, ms"))
    text = (tmp_path / f"{name}.md").read_text()
    assert text.count("\n|") == 3 and f"{row['command, s']:.3g}" in text


def test_other_maps_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["preset=tiny", f"runs_dir={tmp_path}"]

    def evaluate(name: str, *words: str) -> None:
        file = Run.of(words).evaluation(words).metrics
        file.parent.mkdir(parents=True, exist_ok=True)
        quality = 0.5 if "saved=true" in words and differs else 0.6
        file.write_text(json.dumps({"relations": {"rap": {"PQ": quality, "fusion_ms": len(words)}}}))

    monkeypatch.setattr(options, "_command", evaluate)
    differs = False
    options.check([*words, "fusion.conf_thr=0.2"])
    differs = True
    with pytest.raises(MismatchError, match=r"\('rap', 'PQ'\), 0.6, 0.5"):
        options.check([*words, "fusion.conf_thr=0.3"])


def test_the_last_half_of_the_steps_counts(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "base_0" / "metrics.csv"
    log.parent.mkdir(parents=True)
    log.write_text("base/images_per_s,base/gpu_memory_gb,base/loss\n1,2,\n2,5,\n,,7\n30,3,\n40,4,\n")
    assert options._logged(tmp_path) == (35.0, 5.0)
