"""The summary of all tables, against a table measured by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from scripts.tables.comparison import Line
from scripts.tables.measured import Measured
from scripts.tables.summary import counts, summary
from scripts.tables.tables import Table, load


def test_counts(lines: list[Line]) -> None:
    """Of the rows up, down, noisy: the same way, the opposite way, within their spread; one row is not measured."""
    assert counts(lines) == (3, "4/5", 3, 1, 1, 1)


def test_only_measured_tables_have_a_line(table: Table, measured: Measured, tmp_path: Path) -> None:
    measured.write(tmp_path / "ocfusion_table3.json")
    other = load("rap/table1")
    assert table.name == "ocfusion/table3"
    text = summary([table, other], tmp_path, "there").splitlines()
    assert len(text) == 3
    assert text[2].startswith(f"| [ocfusion/table3](there/ocfusion_table3.md) | {table.title} | ")
    replace(measured, table=other.name, rows=()).write(tmp_path / "rap_table1.json")
    assert summary([table, other], tmp_path, "there").splitlines()[3].endswith("| 0 | 0/13 | 0 | 0 | 0 | 0 |")
