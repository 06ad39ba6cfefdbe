"""Tables as text, character by character."""

from __future__ import annotations

import numpy as np
from rich.text import Text

from panoptic_occ.common.tables import comparison_table, to_text
from panoptic_occ.metrics.pq.core import IOU_UNIT, PQCounts
from panoptic_occ.metrics.pq.scores import pq_table, result_of
from panoptic_occ.structures.categories import Categories

PQ_TABLE = """\
panoptic quality

|              |   PQ |   SQ |   RQ | N | TP | FP | FN |
|--------------|------|------|------|---|----|----|----|
| All          | 18.8 | 37.5 | 25.0 | 2 |    |    |    |
| Things       | 37.5 | 75.0 | 50.0 | 1 |    |    |    |
| Stuff        |  0.0 |  0.0 |  0.0 | 1 |    |    |    |
| cat          | 37.5 | 75.0 | 50.0 |   |  1 |  1 |  1 |
|  [void] 犬 7 |    - |    - |    - |   |  0 |  0 |  0 |
| sky          |  0.0 |  0.0 |  0.0 |   |  0 |  0 |  1 |

"""
COMPARISON = """\
on the same detections

|          |        |   PQ | pairs | order right | coverage |
|----------|--------|------|-------|-------------|----------|
| plain    | score  | 50.0 |    12 |           - |          |
|          | method | 51.2 |       |        0.12 |    100.0 |
| both, .5 | score  |  0.0 |       |             |          |

"""


def test_pq_table_shows_the_official_rows_and_each_class():
    names = {"sky": 0, "cat": 1, " [void] 犬 7": 1}
    categories = Categories.from_json(
        {"id": k, "name": name, "isthing": t} for k, (name, t) in enumerate(names.items())
    )
    iou = np.array([3, 0, 0]) * (IOU_UNIT // 4)
    counts = PQCounts(np.array([1, 0, 0]), np.array([1, 0, 0]), np.array([1, 0, 1]), iou)
    assert pq_table(result_of(counts, categories)) == PQ_TABLE


def test_comparison_table_shows_fractions_counts_groups_and_gaps():
    rows = {
        "score | plain": {"PQ": 0.5, "pairs": 12, "order right": float("nan")},
        "method | plain": {"PQ": 0.51249, "order right": "0.12", "coverage": 1.0},
        "score | both | .5": {"PQ": 0.0},
    }
    assert comparison_table(rows, "on the same detections") == COMPARISON
    assert comparison_table({"a": {"0": 1.0}}) == "\n|   |     0 |\n|---|-------|\n| a | 100.0 |\n\n"


def test_text_of_rich_is_neither_cut_nor_coloured():
    assert to_text(Text("x" * 300, style="bold red")) == "x" * 300 + "\n"
