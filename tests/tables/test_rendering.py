"""The renderings of a table measured by hand, letter by letter."""

from __future__ import annotations

import csv
import io
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from panoptic_occ.common.tables import to_text
from scripts.tables.comparison import Line, compare
from scripts.tables.measured import Measured
from scripts.tables.published import Published
from scripts.tables.rendering import (
    Sheet,
    comma_separated,
    escape,
    latex,
    markdown,
    rich_table,
    sheet,
    write_all,
)
from scripts.tables.tables import Table


@pytest.fixture
def shown(table: Table, measured: Measured, lines: list[Line]) -> Sheet:
    return sheet(table, measured, lines)


def test_markdown(shown: Sheet) -> None:
    assert (
        markdown(shown)
        == r"""**OCFusion, Table 3: parts & pieces**

|  | PQ | paper | direction | order right | paper |
|---|---|---|---|---|---|
| Base | 51.0 ± 1.0 | 39.5 |  | - |  |
| up | 52.5 ± 1.5 (+1.5 ± 0.5) | 41.3 (+1.9) | same | - |  |
| down | 49.7 ± 0.6 (-1.3 ± 0.6) | 40.0 (+0.5) | opposite | - | 90.25 |
| noisy | 51.1 ± 0.9 (+0.1 ± 0.2) | 40.5 (+1.0) | within spread | - |  |
| off\* | - | 39.5 (+0.0) |  | - |  |

- Measured: scenes, 200 images; schedule scenes_small, mean ± standard deviation over 3 seeds; R50 is small.
- In brackets: gain over Base, ours paired by seed.
- Paper: Table 3, COCO val.
- Direction: sign of our gain against the published one; within spread: not larger than its own.
- up (R50), PQ: sic; 1.8 by the rows.
- off\* (R50): nothing stands for R50 on this data.
"""
    )


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex")
def test_latex_compiles_and_fits(shown: Sheet, tmp_path: Path) -> None:
    wide = replace(shown, header=shown.header * 4, rows=tuple(row * 4 for row in shown.rows))
    (tmp_path / "table.tex").write_text(latex(shown) + latex(wide))
    document = r"\documentclass{article}\usepackage{booktabs,graphicx}\begin{document}\input{table}\end{document}"
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", document]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stdout
    assert "Overfull" not in ended.stdout


def test_latex_is_escaped(shown: Sheet) -> None:
    text = latex(shown)
    assert r"\caption{OCFusion, Table 3: parts \& pieces. Measured: scenes, 200 images; schedule scenes\_small" in text
    assert r"up & 52.5 $\pm$ 1.5 (+1.5 $\pm$ 0.5) & 41.3 (+1.9) & same & - &  \\" in text
    assert text.count(r"\begin{") == text.count(r"\end{") == 2 and r"\begin{tabular}{lrrrrr}" in text
    assert escape(r"100% a_b #1 {x} ~ ^ $ < > \n") == (
        r"100\% a\_b \#1 \{x\} \textasciitilde{} \textasciicircum{} \$ $<$ $>$ \textbackslash{}n"
    )


def test_csv_has_all_digits(lines: list[Line]) -> None:
    rows = {(row["row"], row["metric"]): row for row in csv.DictReader(io.StringIO(comma_separated(lines)))}
    assert len(rows) == 10
    up = rows["up", "PQ"]
    assert float(up["mean"]) == pytest.approx(52.5) and float(up["gain_spread"]) == pytest.approx(0.5)
    assert (up["seeds"], up["published"], up["published_gain"], up["direction"]) == ("3", "41.3", "1.9", "same")
    assert rows["off*", "PQ"]["mean"] == "" and rows["off*", "PQ"]["note"].startswith("nothing stands for R50")


def test_terminal_shows_every_cell(shown: Sheet) -> None:
    text = to_text(rich_table(shown))
    assert all(cell in text for row in shown.rows for cell in row)


def test_one_seed_is_said(table: Table, measured: Measured, published: Published) -> None:
    base = replace(measured.rows[0], seeds={0: {"PQ": 0.5}})
    found = replace(measured, rows=(base,))
    notes = sheet(table, found, compare(table, found, published)).notes
    assert notes[0] == "Measured: scenes, 200 images; schedule scenes_small, one seed; R50 is small."


def test_a_note_about_many_rows_is_said_once(table: Table, measured: Measured, lines: list[Line]) -> None:
    noted = [replace(line, cells=tuple(replace(cell, note="read off") for cell in line.cells)) for line in lines]
    assert "5 rows: read off." in sheet(table, measured, noted).notes
    assert (
        "Base (R50), PQ and order right; up (R50), PQ and order right: read off."
        in sheet(table, measured, noted[:2]).notes
    )


def test_measurements_survive_the_file(measured: Measured, tmp_path: Path) -> None:
    measured.write(tmp_path / "t.json")
    assert Measured.read(tmp_path / "t.json") == measured


def test_files_are_written_beside_each_other(shown: Sheet, lines: list[Line], tmp_path: Path) -> None:
    write_all(shown, lines, tmp_path / "rap_table1.5")
    assert {path.name for path in tmp_path.iterdir()} == {f"rap_table1.5.{end}" for end in ("md", "tex", "csv")}


def test_what_every_row_was_given_is_named(table: Table, measured: Measured, lines: list[Line]) -> None:
    elsewhere = ("backbone=small", "experiment=x", "schedule=scenes_small")
    given = (*elsewhere, "schedule.base.steps=9", *lines[1].row.overrides)
    rows = tuple(replace(row, words=(*row.words, *given)) for row in measured.rows)
    found = sheet(table, replace(measured, rows=rows), lines)
    assert found.notes[1] == "Other than in the table's own configuration: schedule.base.steps=9."
