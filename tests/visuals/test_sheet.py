from __future__ import annotations

import weakref

import numpy as np
import pytest
import torch
from PIL import Image

from panoptic_occ.visuals.difference import difference
from panoptic_occ.visuals.overlay import DIFFERENCE_COLORS
from panoptic_occ.visuals.sheet import MostDifferent, SheetRow, _nearest, most_different, save_sheet, sheet


@pytest.fixture
def make_row(make_map):
    def make(height=32, width=32, wrong=100, caption=""):
        """A cat on grass; the score order gives ``wrong`` of its pixels to grass, the method all but one to the cat."""
        truth = np.ones((height, width), dtype=int)
        truth[0] = 2
        score, method = truth.copy(), truth.copy()
        score.reshape(-1)[width : width + wrong] = 2
        method[-1, -1] = 2
        target, a, b = (make_map(ids, {1: 0, 2: 2}) for ids in (truth, score, method))
        image = torch.zeros(3, height, width, dtype=torch.uint8)
        return SheetRow(image, target, {"score": a, "ocfusion": b}, caption, {"score": "PQ 1"})

    return make


def test_five_columns_of_enlarged_panels(make_row, categories):
    row = make_row()
    page = np.asarray(sheet([row], categories, panel=100))  # 32 px grow by 3
    lefts = [28 + k * (96 + 12) for k in range(5)]
    black = (page == 0).all(axis=2)
    top = int(black[:, lefts[0]].argmax())
    assert black[top : top + 96, lefts[0] : lefts[0] + 96].all()  # the input is black
    assert page.shape[1] == lefts[-1] + 96 + 28
    painted = np.abs(page[top : top + 96, lefts[4] : lefts[4] + 96].astype(int) - DIFFERENCE_COLORS[1]).max(axis=2) < 40
    change = difference(row.panels["score"], row.panels["ocfusion"], row.target)
    assert (change.fixed, change.broken) == (100, 1)
    assert painted.sum() == 9 * change.fixed  # every pixel of the map became 3 x 3


def test_large_images_shrink_and_rows_of_several_sizes_share_the_columns(make_row, categories):
    rows = [make_row(480, 640), make_row(60, 50)]
    page = sheet(rows, categories, panel=64)
    assert page.width == 2 * 28 + 5 * 64 + 4 * 12


def test_no_difference_column_when_there_is_nothing_to_compare(make_row, categories):
    page = sheet([make_row(64, 64)], categories, method="score", panel=64)
    assert page.width == 2 * 28 + 4 * 64 + 3 * 12


def test_nearest_enlarges_by_whole_blocks_and_keeps_values():
    values = np.arange(12).reshape(3, 4)
    assert (_nearest(values, (9, 12)) == np.kron(values, np.ones((3, 3), dtype=int))).all()
    assert _nearest(values, (1, 2)).tolist() == [[5, 7]]


def test_the_sheet_is_the_same_every_time(make_row, categories):
    first, second = (sheet([make_row(caption="scene 3")], categories).tobytes() for _ in range(2))
    assert first == second


def test_rows_without_the_two_methods_are_refused(make_row, categories):
    with pytest.raises(ValueError, match="at least one row"):
        sheet([], categories)
    with pytest.raises(ValueError, match=r"row 'x' has the panels \['score', 'ocfusion'\].*'rap'"):
        sheet([make_row(caption="x")], categories, method="rap")


def test_most_different_is_the_top_of_the_sorted_list_and_ties_keep_the_first(make_row):
    counts = [3, 50, 7, 50, 0, 20, 50, 7]
    rows = [make_row(wrong=wrong, caption=str(k)) for k, wrong in enumerate(counts)]
    for k in (1, 2, 4, 6, 20):
        expected = sorted(range(len(counts)), key=lambda i: -counts[i])[:k]
        assert [int(row.caption) for row in most_different(rows, k)] == expected
    assert most_different(rows, 0) == []


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_most_different_of_several_processes_is_that_of_one(make_row, processes):
    """Each sees every n-th row."""
    counts = [3, 50, 7, 50, 0, 20, 50, 7]
    rows = [make_row(wrong=wrong, caption=str(k)) for k, wrong in enumerate(counts)]
    for k in (1, 2, 4, 20):
        parts = [MostDifferent(k) for _ in range(processes)]
        for place, row in enumerate(rows):
            parts[place % processes].add(row)
        merged = MostDifferent.merged(parts)
        assert [row.caption for row in merged.rows()] == [row.caption for row in most_different(rows, k)]
        merged.add(make_row(wrong=60, caption="later"))
        assert merged.rows()[0].caption == "later" and len(merged.rows()) == min(k, len(rows) + 1)


def test_most_different_holds_only_k_rows(make_row):
    alive: list[weakref.ref[SheetRow]] = []
    peak = 0

    def stream():
        nonlocal peak
        for wrong in range(30):
            row = make_row(wrong=wrong)
            alive.append(weakref.ref(row))
            yield row
            del row
            peak = max(peak, sum(ref() is not None for ref in alive))

    assert len(most_different(stream(), 3)) == 3
    assert peak <= 4  # three kept and the caller's own


def test_the_file_appears_whole_or_not_at_all(make_row, categories, tmp_path, monkeypatch):
    path = tmp_path / "pictures" / "sheet.png"
    save_sheet(path, [make_row()], categories)
    assert [p.name for p in path.parent.iterdir()] == ["sheet.png"]
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        assert picture.tobytes() == sheet([make_row()], categories).tobytes()

    before = path.read_bytes()

    def broken(self, file, **kwargs):
        file.write_bytes(b"half a picture")
        raise OSError("the disk is full")

    monkeypatch.setattr(Image.Image, "save", broken)
    with pytest.raises(OSError, match="the disk is full"):
        save_sheet(path, [make_row(wrong=5)], categories)
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == ["sheet.png"]
