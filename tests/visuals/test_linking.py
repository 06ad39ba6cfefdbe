from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from panoptic_occ.visuals.linking import CROWD, link, segment_index

LABELS = {7: 0, 3: 0, 900000: 1, 12: 2, 5: 3}


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 2**32 - 1))
def test_segment_index_equals_a_search_per_pixel(make_map, seed):
    ids = np.random.default_rng(seed).choice([0, 1, *LABELS], size=(6, 5))  # 1 has no segment
    labels = list(LABELS)
    expected = [[1 + labels.index(i) if i in LABELS else 0 for i in row] for row in ids.tolist()]
    assert segment_index(make_map(ids, LABELS)).tolist() == expected


def test_segment_index_without_segments_is_void(make_map):
    assert segment_index(make_map([[4, 0]], {})).tolist() == [[0, 0]]


def test_ids_do_not_matter_only_class_and_overlap_do(make_map):
    target = make_map([[1, 1, 1, 2, 2, 3]], {1: 0, 2: 0, 3: 1})
    result = make_map([[9, 9, 8, 8, 8, 7]], {7: 1, 8: 0, 9: 0})
    assert link([target, result]) == [[(0, 0), (0, 1), (1, 0)], [(1, 0), (0, 1), (0, 0)]]


def test_the_largest_overlap_wins_and_an_object_is_given_once(make_map):
    target = make_map([[1, 1, 1, 1, 1, 0]], {1: 0})
    result = make_map([[1, 1, 2, 2, 2, 0]], {1: 0, 2: 0})
    assert link([target, result])[1] == [(0, 1), (0, 0)]


def test_another_class_never_matches(make_map):
    target, result = make_map([[1, 1]], {1: 0}), make_map([[1, 1]], {1: 1})
    assert link([target, result]) == [[(0, 0)], [(1, 0)]]


def test_false_positives_of_two_results_are_the_same_object_where_they_overlap(make_map):
    target = make_map([[1, 1, 0, 0, 0, 0]], {1: 0})
    first = make_map([[4, 4, 5, 5, 6, 6]], {4: 0, 5: 0, 6: 0})
    second = make_map([[2, 2, 0, 0, 3, 3]], {2: 0, 3: 0})
    assert link([target, first, second])[1:] == [[(0, 0), (0, 1), (0, 2)], [(0, 0), (0, 2)]]


def test_stuff_is_one_object_per_class_and_a_crowd_region_matches_nothing(make_map):
    target = make_map([[1, 1, 2, 2]], {1: 0, 2: 3}, crowds=(1,))
    result = make_map([[5, 5, 6, 7]], {5: 0, 6: 3, 7: 2})
    assert link([target, result]) == [[(0, CROWD), (3, 0)], [(0, 0), (3, 0), (2, 0)]]


def test_hundreds_of_segments(make_map):
    ids = np.arange(1, 901).reshape(30, 30)
    target = make_map(ids, dict.fromkeys(range(1, 901), 0))
    result = make_map(1000 - ids, dict.fromkeys(range(100, 1000), 0))
    first, second = link([target, result])
    assert len(set(first)) == 900
    assert second == first[::-1]


def test_maps_of_different_sizes_are_refused(make_map):
    with pytest.raises(ValueError, match=r"one size, not \[\(1, 2\), \(2, 2\)\]"):
        link([make_map([[1, 1], [1, 1]], {1: 0}), make_map([[1, 1]], {1: 0})])
