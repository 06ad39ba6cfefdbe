from __future__ import annotations

import weakref

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.maps import make_map
from panoptic_occ.visuals.difference import difference
from panoptic_occ.visuals.overlay import DIFFERENCE_COLORS
from panoptic_occ.visuals.sheet import MostDifferent, SheetRow, _nearest, legend, save_sheet, sheet


def make_row(height=32, width=32, wrong=100, caption=""):
    """A cat on grass; the score order gives ``wrong`` of its pixels to grass, the method all but one to the cat."""
    truth = np.ones((height, width), dtype=int)
    truth[0] = 2
    score, method = truth.copy(), truth.copy()
    score.reshape(-1)[width : width + wrong] = 2
    method[-1, -1] = 2
    target, a, b = (make_map(ids, {1: 0, 2: 2}) for ids in (truth, score, method))
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    return SheetRow(image, target, {"score": a, "ocfusion": b}, caption, {"score": "PQ 1"})


COUNTS = [3, 50, 7, 50, 0, 20, 50, 7]


def most(rows, k):
    best = MostDifferent(k)
    for row in rows:
        best.add(row)
    return best


def test_five_columns_of_enlarged_panels(categories):
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


@pytest.mark.parametrize(
    ("sizes", "method", "columns"),
    [([(480, 640), (60, 50)], "ocfusion", 5), ([(64, 64)], "score", 4)],  # one column less without a difference
)
def test_large_images_shrink_and_all_rows_share_the_columns(categories, sizes, method, columns):
    page = sheet([make_row(*size) for size in sizes], categories, method=method, panel=64)
    assert page.width == 2 * 28 + columns * 64 + (columns - 1) * 12


def test_nearest_enlarges_by_whole_blocks_and_keeps_values():
    values = np.arange(12).reshape(3, 4)
    assert (_nearest(values, (9, 12)) == np.kron(values, np.ones((3, 3), dtype=int))).all()
    assert _nearest(values, (1, 2)).tolist() == [[5, 7]]


def test_the_legend_names_each_group_once(categories):
    """So narrow that there is room for one class a line."""
    page = np.asarray(legend(200, [make_map([[1, 2, 3, 4]], {1: 0, 2: 1, 3: 2, 4: 3})], categories, {}))
    lines = page.reshape(-1, 26, *page.shape[1:])
    assert (lines[:, :, :80] < 200).any(axis=(1, 2, 3)).tolist() == [True, False] * 3  # things, stuff and marks
    assert (lines[:, :, 84:] < 200).any(axis=(1, 2, 3)).all()


def test_rows_without_the_two_methods_are_refused(categories):
    with pytest.raises(ValueError, match="at least one row"):
        sheet([], categories)
    with pytest.raises(ValueError, match=r"row 'x' has the panels \['score', 'ocfusion'\].*'rap'"):
        sheet([make_row(caption="x")], categories, method="rap")


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_most_different_is_the_top_of_the_sorted_list_and_ties_keep_the_first(processes):
    """Every process sees every n-th row."""
    rows = [make_row(wrong=wrong, caption=str(k)) for k, wrong in enumerate(COUNTS)]
    for k in (0, 1, 2, 4, 6, 20):
        merged = MostDifferent.merged([most(rows[part::processes], k) for part in range(processes)])
        expected = sorted(range(len(rows)), key=lambda i: -COUNTS[i])[:k]
        assert [int(row.caption) for row in merged.rows()] == expected
        merged.add(make_row(wrong=60, caption="later"))
        assert [row.caption for row in merged.rows()][:1] == ["later"][:k]
        assert len(merged.rows()) == min(k, len(rows) + 1)


def test_most_different_holds_only_k_rows():
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

    assert len(most(stream(), 3).rows()) == 3
    assert peak <= 4  # three and the caller's own


def test_the_file_appears_whole_or_not_at_all(categories, tmp_path, monkeypatch):
    path, row = tmp_path / "pictures" / "sheet.png", make_row(caption="scene 3")
    save_sheet(path, sheet([row], categories))
    with Image.open(path) as read:
        assert read.format == "PNG" and read.tobytes() == sheet([row], categories).tobytes()  # the same every time
    before = path.read_bytes()

    def broken(self, file, **kwargs):
        file.write_bytes(b"half a picture")
        raise OSError("the disk is full")

    monkeypatch.setattr(Image.Image, "save", broken)
    with pytest.raises(OSError, match="the disk is full"):
        save_sheet(path, sheet([make_row(wrong=5)], categories))
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == ["sheet.png"]
