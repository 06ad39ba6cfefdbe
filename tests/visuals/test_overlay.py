from __future__ import annotations

import time
import tracemalloc

import numpy as np
import pytest
import torch

from helpers.maps import make_map
from panoptic_occ.visuals import overlay as painting
from panoptic_occ.visuals.difference import BROKEN, FIXED, NEITHER, difference
from panoptic_occ.visuals.overlay import DIFFERENCE_COLORS, boundaries, difference_overlay, overlay, segment_colors


def grey(height, width, value=128):
    return torch.full((3, height, width), value, dtype=torch.uint8)


def painted(ids, labels, categories, colors=None, crowds=()):
    """A map over a grey image."""
    return overlay(grey(*np.shape(ids)), make_map(ids, labels, crowds), categories, colors).astype(int)


def test_the_same_object_has_the_same_colour_in_every_panel(categories):
    target = make_map([[1, 1, 1, 2, 2, 3]], {1: 0, 2: 0, 3: 2})
    result = make_map([[9, 9, 8, 8, 8, 7]], {7: 2, 8: 0, 9: 0})
    truth, other = segment_colors([target, result], categories)
    assert (other[9], other[8], other[7]) == (truth[1], truth[2], truth[3])
    assert len(set(truth.values())) == 3
    assert truth[1] == categories[0].color


def test_stuff_is_painted_weaker_than_things(categories):
    picture = painted(np.repeat([[1] * 20 + [2] * 20], 20, axis=0), {1: 0, 2: 2}, categories)
    strength = np.abs(picture - 128).sum(axis=2)
    assert strength.shape == (20, 40) and strength[10, 2] > 1.5 * strength[10, 37]


def test_painting_follows_the_given_colours_and_the_image(categories):
    color = (28, 228, 128)
    expected = 128 + 0.65 * (np.array(color) - 128)  # 0.65: the strength of things
    assert np.abs(painted([[1, 1], [1, 1]], {1: 0}, categories, {1: color}) - expected).max() <= 1


def test_boundaries_lie_between_segments_only():
    index = np.array([[1, 1, 2], [1, 1, 2], [3, 3, 3]])
    assert boundaries(index).tolist() == [[False, True, False], [True, True, True], [False, False, False]]


def test_void_is_dark_and_a_crowd_region_is_striped(categories):
    ids = np.repeat([[0] * 30 + [1] * 30], 30, axis=0)
    plain, picture = (painted(ids, {1: 0}, categories, crowds=crowds) for crowds in ((), (1,)))
    assert picture[:, :29].max() < 110
    striped = (picture[:, 30:] != plain[:, 30:]).any(axis=2)
    assert 0.15 < striped.mean() < 0.35  # 2 of 9 pixels


def test_a_name_is_written_only_where_it_fits(categories):
    narrow = np.zeros((80, 80), dtype=int)
    narrow[:, :12] = 1
    room, tight = (painted(ids, {1: 0}, categories, {1: (128, 128, 128)}) for ids in (np.ones((80, 80)), narrow))
    rows, columns = (room != 128).any(axis=2).nonzero()
    assert abs(rows.mean() - 40) < 6 and abs(columns.mean() - 40) < 6
    assert (tight[:, :11] == 128).all()


def test_one_pixel_segments_many_segments_and_no_segments(categories):
    ids = np.arange(600).reshape(20, 30)
    assert painted(ids, {i: i % 4 for i in range(1, 600)}, categories).shape == (20, 30, 3)
    assert painted([[1]], {1: 0}, categories).shape == (1, 1, 3)
    assert painted(0 * ids, {}, categories).max() < 110
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


def random_map(height, width, segments, crowds=()):
    """Rectangles over each other; segment 1 is below all."""
    generator = np.random.default_rng(1)
    ids = np.ones((height, width), dtype=int)
    for number in range(2, segments + 1):
        y, x = generator.integers(height), generator.integers(width)
        ids[y : y + height // 3, x : x + width // 3] = number
    return make_map(ids, dict.fromkeys(np.unique(ids), 0), crowds)


def test_bands_are_not_seen(categories, monkeypatch):
    image = torch.randint(0, 256, (3, 50, 40), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    panoptic = random_map(50, 40, 6, crowds=(2, 5))
    whole = overlay(image, panoptic, categories)
    for band in (1, 40 * 7, 40 * 49):
        monkeypatch.setattr(painting, "_BAND", band)
        np.testing.assert_array_equal(overlay(image, panoptic, categories), whole)


def test_a_name_in_a_large_segment_has_room(monkeypatch):
    yy, xx = np.mgrid[:300, :400]
    disc = (yy - 140) ** 2 + (xx - 220) ** 2 < 120**2
    exact = painting._room(disc, (20, 60))
    monkeypatch.setattr(painting, "_ROOM", 3000)
    coarse = painting._room(disc, (20, 60))
    assert np.abs(np.subtract(exact, (140, 220))).max() <= 1 and np.abs(np.subtract(coarse, exact)).max() <= 7
    assert painting._room(disc[:, :110], (20, 60)) is None


def test_memory_and_time_of_a_photograph_are_bounded(categories):
    """Of 6 million pixels: less than 60 bytes a pixel, which took 150."""
    panoptic, image = random_map(2000, 3000, 12), torch.zeros((3, 2000, 3000), dtype=torch.uint8)
    start = time.process_time()
    tracemalloc.start()
    overlay(image, panoptic, categories)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 60 * 6_000_000 and time.process_time() - start < 30
