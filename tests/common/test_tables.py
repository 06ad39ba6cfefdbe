from __future__ import annotations

import numpy as np
from rich.text import Text

from panoptic_occ.common.tables import comparison_table, to_text
from panoptic_occ.metrics.pq.core import IOU_UNIT, PQCounts
from panoptic_occ.metrics.pq.scores import result_of
from panoptic_occ.metrics.tables import pq_table
from panoptic_occ.structures.categories import Categories

CATEGORIES = Categories.from_json(
    [
        {"id": 1, "name": "cat", "isthing": 1},
        {"id": 2, "name": "[void] " + "long name " * 20, "isthing": 1},
        {"id": 3, "name": "sky", "isthing": 0},
    ]
)


def result():
    iou = np.array([3, 0, 0]) * (IOU_UNIT // 4)
    return result_of(PQCounts(np.array([1, 0, 0]), np.array([1, 0, 0]), np.array([1, 0, 1]), iou), CATEGORIES)


def cells(text):
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if "|" in line]


def test_pq_table_shows_the_official_rows_and_each_class():
    rows = cells(to_text(pq_table(result())))
    assert rows[0] == ["", "PQ", "SQ", "RQ", "N", "TP", "FP", "FN"]
    assert [row[:5] for row in rows[2:5]] == [
        ["All", "18.8", "37.5", "25.0", "2"],
        ["Things", "37.5", "75.0", "50.0", "1"],
        ["Stuff", "0.0", "0.0", "0.0", "1"],
    ]
    assert rows[5:] == [
        ["cat", "37.5", "75.0", "50.0", "", "1", "1", "1"],
        [CATEGORIES[1].name.strip(), "-", "-", "-", "", "0", "0", "0"],
        ["sky", "0.0", "0.0", "0.0", "", "0", "0", "1"],
    ]


def test_comparison_table_shows_fractions_counts_and_gaps():
    rows = {
        "score": {"PQ": 0.5, "pairs": 12, "accuracy": float("nan")},
        "method": {"PQ": 0.51249, "coverage": 1.0},
    }
    text = to_text(comparison_table(rows, title="on the same detections"))
    assert text.splitlines()[0].strip() == "on the same detections"
    assert cells(text)[0] == ["", "PQ", "pairs", "accuracy", "coverage"]
    assert cells(text)[2:] == [["score", "50.0", "12", "-", ""], ["method", "51.2", "", "", "100.0"]]


def test_text_is_neither_cut_nor_coloured():
    many = {"row": {f"a_rather_long_number_{k}": 0.5 for k in range(40)}}
    text = to_text(comparison_table(many))
    assert cells(text)[0] == ["", *many["row"]]
    assert "…" not in text and "\x1b" not in text
    assert to_text(Text("x", style="bold red")) == "x\n"
