"""The tables of the documents: numbers worked out by hand, beside the very words that the report runs."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from panoptic_occ.common.errors import DataError
from scripts.documents import ROOT, fill, markdown
from scripts.suite import Run, compose, swept
from scripts.tables import report


def row(pq_things: float, right: float = 0.5) -> dict[str, float]:
    return {"PQ": pq_things + 0.1, "PQ_th": pq_things, "relation_accuracy": right, "by_score": 1.0, "pairs": 3}


def seed(*pq_things: float) -> dict[str, Any]:
    """Score order, a method and the true order, with two policies and on its own."""
    orders = dict(zip(("score", "rap", "ground_truth"), map(row, pq_things), strict=True))
    cross = {f"{name} | {policy}": numbers for name, numbers in orders.items() for policy in ("plain", "duplicates")}
    return {"cross": cross, "cross within classes": cross, "rap": orders}


SCENES = {"images": 9, "rules": {"smaller": 0.521}, "seeds": {"0": seed(0.4, 0.5, 0.6), "1": seed(0.4, 0.6, 0.8)}}
ORDERS = {name: row(k / 9) for k, name in enumerate(["score", *report.METHODS, "ground_truth"])}
OWN = report.own_table({"seeds": dict.fromkeys("01", dict.fromkeys(report.METHODS, ORDERS))})


def cells(table: str, first: str) -> list[str]:
    (line,) = (line for line in table.splitlines() if line.startswith(f"| {first} "))
    return [cell.strip() for cell in line.split("|")[2:-1]]


def test_means_spreads_and_the_gap() -> None:
    table = report.scenes_table(SCENES)
    assert cells(table, "**RAP**") == ["65.0 ± 7.1", "55.0 ± 7.1", "50.0 ± 0.0", "100.0 ± 0.0", "50.0 ± 0.0"]
    assert cells(table, "score order")[-1] == "0.0 ± 0.0"
    assert cells(table, "ground-truth order (ceiling)")[-1][:5] == "100.0"
    assert "2 seeds, percent, 9 held-out scenes" in table
    assert cells(report.twice_table(SCENES), "**RAP**") == ["50.0 ± 0.0"] * 3
    assert cells(report.again_table(SCENES, SCENES), "**RAP**")[1:] == ["50.0 ± 0.0"] * 2 + ["0.0 ± 0.0", "50.0 ± 0.0"]
    assert report.cross_report(SCENES).count("## Policy: ") == 2
    assert cells(report.rules_table(SCENES), "smaller") == ["52.1"]


def test_the_first_table_is_that_of_the_printed_command() -> None:
    """Every order that ``experiment=oracle_base`` compares, and no other, in its order; all scores are 1."""
    orders = ["score", *compose(report.COCO).compare]
    table = report.coco_table({"relations": {name: row(0.5) for name in orders}, "images": 12})
    names = [report.NAMES[name] for name in orders[1:]]
    assert [line.split("|")[1].strip() for line in table.splitlines()[2 : 2 + len(names)]] == names
    assert {"**BANet**", "class prior"} <= set(names)
    assert "Made by `python -m panoptic_occ.evaluate experiment=oracle_base data=coco data.root=...`." in table
    stored = json.loads((ROOT / "results" / "coco_mini.json").read_text())["relations"]
    assert set(stored) == set(orders), "the committed results are of another command"


def test_the_printed_commands_are_those_that_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    commands: list[str] = []

    def run(command: str, *words: str) -> None:
        commands.append(f"{command} {shlex.join(words[:-1])}")
        for number in words[-2].removeprefix("seed=").split(","):  # leaves behind what the command would leave
            file = Run.of(swept([*words[1:-2], f"seed={number}", words[-1]])).metrics
            file.parent.mkdir(parents=True)
            file.write_text(json.dumps({"relations": {"rap": {"PQ": int(number)}}}))

    monkeypatch.setattr(report, "run", run)
    runs = {name: report.SCENES[name] for name in ("cross within classes", "rap")}
    results = report.measure(runs, report.SEEDS, tmp_path)
    assert [results[n]["rap"]["rap"]["PQ"] for n in ("0", "1", "2")] == [0, 1, 2]
    _, within, alone = re.findall(r"python -m panoptic_occ\.([^`]*)`", report.twice_table(SCENES) + OWN)
    assert commands == [within, alone.replace("METHOD", "rap")]


def test_the_first_rows_of_the_pictures_are_shown(tmp_path: Path) -> None:
    bottom = report.TOP + 6 * report.ROW
    page = Image.new("RGB", (40, bottom + 100), "red")
    page.paste("blue", (0, bottom, 40, bottom + 100))  # the legend
    page.paste("lime", (0, report.TOP + report.ROWS * report.ROW, 40, bottom))
    page.save(tmp_path / "pictures.png")
    report.show_pictures(tmp_path, tmp_path / "small.jpg")
    with Image.open(tmp_path / "small.jpg") as small:
        assert small.size == (20, (report.TOP + report.ROWS * report.ROW + 100) // 2)
        assert small.getpixel((9, 9))[0] > 250 and small.getpixel((9, small.height - 9))[2] > 250


MARKERS = "a\n<!-- x: made by y -->\nold\n<!-- end x -->\nb\n"


def test_markers_are_filled_in_the_document_that_has_them(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    readme, page = tmp_path / "README.md", tmp_path / "docs" / "tables.md"
    readme.write_text("nothing\n")
    page.write_text(MARKERS)
    assert fill("x", "[t](results/t.md) [h](https://x)", "me", tmp_path) == [page]
    filled = "a\n<!-- x: made by me -->\n[t](../results/t.md) [h](https://x)\n<!-- end x -->\nb\n"
    assert page.read_text() == filled and readme.read_text() == "nothing\n"
    with pytest.raises(DataError, match=r"no markers for 'other' in README.md and docs/\*.md"):
        fill("other", "new", "me", tmp_path)
    readme.write_text(MARKERS)
    assert fill("x", "[t](results/t.md) [h](https://x)", "me", tmp_path) == [readme, page]
    assert page.read_text() == filled and readme.read_text() == filled.replace("../", "")


def test_bars_do_not_end_a_cell() -> None:
    assert markdown(("a", "b"), [("x | y", 1)]).splitlines()[2] == "| x \\| y |   1 |"
