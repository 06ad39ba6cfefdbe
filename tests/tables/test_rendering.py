"""The renderings of a table measured by hand, letter by letter."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from pathlib import Path

import pytest

from scripts.tables.comparison import Line, PaperNumbers, compare
from scripts.tables.plan import TableResults
from scripts.tables.rendering import Sheet, comma_separated, latex, markdown, sheet, summary, summary_counts
from scripts.tables.tables import Table, load


@pytest.fixture
def shown(table: Table, results: TableResults, lines: list[Line]) -> Sheet:
    return sheet(table, results, lines)


def test_markdown(shown: Sheet) -> None:
    assert (
        markdown(shown)
        == r"""**OCFusion, Table 3: parts & pieces**

|       |                      PQ |       paper |     direction |   order right |   paper |
|:------|------------------------:|------------:|--------------:|--------------:|--------:|
| Base  |              51.0 ± 1.0 |        39.5 |               |             - |         |
| up    | 52.5 ± 1.5 (+1.5 ± 0.5) | 41.3 (+1.9) |          same |             - |         |
| down  | 49.7 ± 0.6 (-1.3 ± 0.6) | 40.0 (+0.5) |      opposite |             - |   90.25 |
| noisy | 51.1 ± 0.9 (+0.1 ± 0.2) | 40.5 (+1.0) | within spread |             - |         |
| off\* |                       - | 39.5 (+0.0) |               |             - |         |

- Measured: scenes, 200 images; schedule scenes_small, mean ± standard deviation over 3 seeds; R50 is small.
- In brackets: gain over Base, ours paired by seed.
- Paper: Table 3, COCO val.
- Direction: sign of our gain against the published one; within spread: not larger than its own.
- up (R50), PQ: sic; 1.8 by the rows.
- off\* (R50): nothing stands for R50 on this data.
"""
    )


def test_latex_is_escaped(shown: Sheet) -> None:
    odd = replace(shown, header=("a_b", "100%"), rows=(("#1 & {x}", "70.1 ± 0.6"),))
    text = latex(odd)
    comments = [line for line in text.splitlines() if line.startswith("%")]
    assert comments == [f"% {line}" for line in (shown.title, *shown.notes)]
    body = text.replace("\n".join(comments), "")
    assert r"a\_b" in body and r"100\%" in body and r"\#1 \& \{x\}" in body and r"70.1 $\pm$ 0.6" in body
    assert text.count(r"\begin{") == text.count(r"\end{") == 1 and r"\begin{tabular}{lr}" in text


def test_csv_has_all_digits(lines: list[Line]) -> None:
    rows = {(row["row"], row["metric"]): row for row in csv.DictReader(io.StringIO(comma_separated(lines)))}
    assert len(rows) == 10
    up = rows["up", "PQ"]
    assert float(up["mean"]) == pytest.approx(52.5) and float(up["gain_spread"]) == pytest.approx(0.5)
    assert (up["seeds"], up["published"], up["published_gain"], up["direction"]) == ("3", "41.3", "1.9", "same")
    off = rows["off*", "PQ"]
    assert off["mean"] == "" and off["seeds"] == "0" and off["note"].startswith("nothing stands for R50")


def test_one_seed_is_said(table: Table, results: TableResults, papers: PaperNumbers) -> None:
    base = replace(results.rows[0], seeds={0: {"PQ": 0.5}})
    single = replace(results, rows=(base,))
    notes = sheet(table, single, compare(table, single, papers)).notes
    assert notes[0] == "Measured: scenes, 200 images; schedule scenes_small, one seed; R50 is small."


def test_a_note_about_many_rows_is_said_once(table: Table, results: TableResults, lines: list[Line]) -> None:
    noted = [replace(line, cells=tuple(replace(cell, note="read off") for cell in line.cells)) for line in lines]
    assert "5 rows: read off." in sheet(table, results, noted).notes
    few = sheet(table, results, noted[:2]).notes
    assert "Base (R50), PQ and order right; up (R50), PQ and order right: read off." in few


def test_what_every_row_was_given_is_named(table: Table, results: TableResults, lines: list[Line]) -> None:
    elsewhere = ("backbone=small", "experiment=x", "schedule=scenes_small")
    given = (*elsewhere, "schedule.base.steps=9", *lines[1].row.overrides)
    rows = tuple(replace(row, words=(*row.words, *given)) for row in results.rows)
    shown = sheet(table, replace(results, rows=rows), lines)
    assert shown.notes[1] == "Other than in the table's own configuration: schedule.base.steps=9."


def test_counts_of_the_summary(lines: list[Line]) -> None:
    """Of the rows up, down, noisy: the same way, the opposite way, within their spread; one row is not measured."""
    assert summary_counts(lines) == (3, "4/5", 3, 1, 1, 1)


def test_the_summary_lists_every_table(table: Table, results: TableResults, tmp_path: Path) -> None:
    def file_of(one: Table) -> Path:
        return tmp_path / f"{one.stem}.json"

    results.write(file_of(table))
    rows = [line.split("|") for line in summary([table, load("rap/table1")], file_of, "there").splitlines()[2:]]
    assert rows[0][1].strip() == "[ocfusion/table3](there/ocfusion_table3.md)" and rows[0][2].strip() == table.title
    assert [cell.strip() for cell in rows[1][4:-1]] == ["-", "-", "0/13", "-", "-", "-", "-"]
    terminal = summary([table], file_of).splitlines()
    assert "minutes" in terminal[0] and terminal[2].split("|")[-2].strip() == "2" and "](" not in terminal[2]
