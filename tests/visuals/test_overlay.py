from __future__ import annotations

import numpy as np
import pytest
import torch

from helpers.maps import make_map
from panoptic_occ.visuals.difference import BROKEN, FIXED, NEITHER, difference
from panoptic_occ.visuals.overlay import DIFFERENCE_COLORS, boundaries, difference_overlay, overlay, segment_colors


def grey(height, width, value=128):
    return torch.full((3, height, width), value, dtype=torch.uint8)


def test_the_same_object_has_the_same_colour_in_every_panel(categories):
    target = make_map([[1, 1, 1, 2, 2, 3]], {1: 0, 2: 0, 3: 2})
    result = make_map([[9, 9, 8, 8, 8, 7]], {7: 2, 8: 0, 9: 0})
    truth, found = segment_colors([target, result], categories)
    assert (found[9], found[8], found[7]) == (truth[1], truth[2], truth[3])
    assert len(set(truth.values())) == 3
    assert truth[1] == categories[0].color


def test_stuff_is_painted_weaker_than_things(categories):
    ids = np.repeat([[1] * 20 + [2] * 20], 20, axis=0)
    picture = overlay(grey(20, 40), make_map(ids, {1: 0, 2: 2}), categories).astype(int)
    assert picture.shape == (20, 40, 3)
    strength = np.abs(picture - 128).sum(axis=2)
    assert strength[10, 2] > 1.5 * strength[10, 37]


def test_painting_follows_the_given_colours_and_the_image(categories):
    panoptic = make_map([[1, 1], [1, 1]], {1: 0})
    picture = overlay(grey(2, 2), panoptic, categories, {1: (28, 228, 128)})
    expected = 128 + 0.65 * (np.array((28, 228, 128)) - 128)  # 0.65: the strength of things
    assert np.abs(picture - expected).max() <= 1


def test_boundaries_lie_between_segments_only():
    index = np.array([[1, 1, 2], [1, 1, 2], [3, 3, 3]])
    assert boundaries(index).tolist() == [[False, True, False], [True, True, True], [False, False, False]]


def test_void_is_dark_and_a_crowd_region_is_striped(categories):
    ids = np.repeat([[0] * 30 + [1] * 30], 30, axis=0)
    picture = overlay(grey(30, 60), make_map(ids, {1: 0}, crowds=(1,)), categories)
    assert picture[:, :29].max() < 110
    plain = overlay(grey(30, 60), make_map(ids, {1: 0}), categories)
    striped = (picture[:, 30:] != plain[:, 30:]).any(axis=2)
    assert 0.15 < striped.mean() < 0.35  # 2 of 9 pixels


def test_a_name_is_written_only_where_it_fits(categories):
    colors = {1: (128, 128, 128)}
    room = overlay(grey(80, 80), make_map(np.ones((80, 80)), {1: 0}), categories, colors)
    assert (room != 128).any()
    rows, columns = (room != 128).any(axis=2).nonzero()
    assert abs(rows.mean() - 40) < 6 and abs(columns.mean() - 40) < 6
    narrow = np.zeros((80, 80), dtype=int)
    narrow[:, :12] = 1
    tight = overlay(grey(80, 80), make_map(narrow, {1: 0}), categories, colors)
    assert (tight[:, :11] == 128).all()


def test_one_pixel_segments_many_segments_and_no_segments(categories):
    ids = np.arange(600).reshape(20, 30)
    many = make_map(ids, {i: i % 4 for i in range(1, 600)})
    assert overlay(grey(20, 30), many, categories).shape == (20, 30, 3)
    assert overlay(grey(1, 1), make_map([[1]], {1: 0}), categories).shape == (1, 1, 3)
    void = overlay(grey(20, 30), make_map(np.zeros((20, 30)), {}), categories)
    assert void.shape == (20, 30, 3) and void.max() < 110


def test_another_size_of_image_and_map_is_refused(categories):
    with pytest.raises(ValueError, match=r"\(4, 5\) px, its panoptic map \(4, 6\) px"):
        overlay(grey(4, 5), make_map(np.zeros((4, 6)), {}), categories)


def test_differing_pixels_take_the_colour_of_their_kind():
    target = make_map([[1, 1, 1, 1, 0]], {1: 0})
    a = make_map([[1, 1, 0, 1, 1]], {1: 0})
    b = make_map([[1, 0, 1, 1, 0]], {1: 0})
    change = difference(a, b, target)
    assert change.kind[0].tolist() == [0, BROKEN, FIXED, 0, NEITHER]
    picture = difference_overlay(grey(1, 5), change, target).astype(int)
    for x, kind in enumerate(change.kind[0].tolist()):
        if kind:
            assert np.abs(picture[0, x] - DIFFERENCE_COLORS[kind]).max() < 40
        else:
            assert np.ptp(picture[0, x]) < 15  # grey, or a boundary
