from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.maps import make_map
from panoptic_occ.visuals.difference import CROWD, link, segment_index

LABELS = {7: 0, 3: 0, 900000: 1, 12: 2, 5: 3}


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_segment_index_equals_a_search_per_pixel(seed):
    ids = np.random.default_rng(seed).choice([0, 1, *LABELS], size=(6, 5))  # 1 has no segment
    labels = list(LABELS)
    expected = [[1 + labels.index(i) if i in LABELS else 0 for i in row] for row in ids.tolist()]
    assert segment_index(make_map(ids, LABELS)).tolist() == expected


def test_segment_index_without_segments_is_void():
    assert segment_index(make_map([[4, 0]], {})).tolist() == [[0, 0]]


CASES = [  # a row of pixels of every map with its labels (and crowds), and the objects
    # ids do not matter, only class and overlap do
    ([([1, 1, 1, 2, 2, 3], {1: 0, 2: 0, 3: 1}), ([9, 9, 8, 8, 8, 7], {7: 1, 8: 0, 9: 0})],
     [[(0, 0), (0, 1), (1, 0)], [(1, 0), (0, 1), (0, 0)]]),
    # the largest overlap wins, and an object is given once
    ([([1, 1, 1, 1, 1, 0], {1: 0}), ([1, 1, 2, 2, 2, 0], {1: 0, 2: 0})], [[(0, 0)], [(0, 1), (0, 0)]]),
    # another class never matches
    ([([1, 1], {1: 0}), ([1, 1], {1: 1})], [[(0, 0)], [(1, 0)]]),
    # false positives of two results are the same object where they overlap
    ([([1, 1, 0, 0, 0, 0], {1: 0}), ([4, 4, 5, 5, 6, 6], {4: 0, 5: 0, 6: 0}), ([2, 2, 0, 0, 3, 3], {2: 0, 3: 0})],
     [[(0, 0)], [(0, 0), (0, 1), (0, 2)], [(0, 0), (0, 2)]]),
    # stuff is one object per class, and a crowd region matches nothing
    ([([1, 1, 2, 2], {1: 0, 2: 3}, (1,)), ([5, 5, 6, 7], {5: 0, 6: 3, 7: 2})],
     [[(0, CROWD), (3, 0)], [(0, 0), (3, 0), (2, 0)]]),
]  # fmt: skip


@pytest.mark.parametrize(("maps", "objects"), CASES)
def test_objects_by_hand(maps, objects):
    assert link([make_map([row], *rest) for row, *rest in maps]) == objects


def test_hundreds_of_segments():
    ids = np.arange(1, 901).reshape(30, 30)
    target = make_map(ids, dict.fromkeys(range(1, 901), 0))
    result = make_map(1000 - ids, dict.fromkeys(range(100, 1000), 0))
    first, second = link([target, result])
    assert len(set(first)) == 900
    assert second == first[::-1]


def test_maps_of_different_sizes_are_refused():
    with pytest.raises(ValueError, match=r"one size, not \[\(1, 2\), \(2, 2\)\]"):
        link([make_map([[1, 1], [1, 1]], {1: 0}), make_map([[1, 1]], {1: 0})])
