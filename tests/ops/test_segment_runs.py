"""Runs of equal pixels, against numpy's unique and dictionaries."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from panoptic_occ.ops.segment_runs import positions, run_starts, unique_counts, unique_ids

any_id = st.integers(0, 2**24 - 1) | st.integers(0, 2)
maps = st.lists(st.lists(any_id, min_size=3, max_size=3), min_size=1, max_size=4)


def check(ids):
    values, counts = np.unique(ids, return_counts=True)
    for result in (unique_counts(ids), unique_ids(ids)[::2]):
        np.testing.assert_array_equal(result, (values, counts))
        assert result[1].dtype == np.int64
    np.testing.assert_array_equal(values[unique_ids(ids)[1]], ids)


@given(rows=maps, dtype=st.sampled_from([np.int32, np.int64, np.uint32]))
def test_equal_numpy_unique(rows, dtype):
    check(np.array(rows, dtype=dtype))


@pytest.mark.parametrize("segments", [1, 40, 127, 128, 129, 300, 5000])
def test_any_number_of_segments(segments):
    rng = np.random.default_rng(segments)
    check(rng.choice(rng.choice(2**24, size=segments, replace=False), (60, 70)).repeat(2, 1))


@given(a=st.lists(st.integers(0, 1), max_size=12), b=st.lists(st.integers(0, 1), min_size=12, max_size=12))
def test_runs_begin_where_any_map_changes(a, b):
    pairs = list(zip(a, b, strict=False))
    expected = [k for k in range(len(pairs)) if k == 0 or pairs[k] != pairs[k - 1]]
    assert run_starts(np.array(a, dtype=int), np.array(b[: len(a)], dtype=int)).tolist() == expected
    assert run_starts(np.array(a, dtype=int)).tolist() == [k for k in range(len(a)) if k == 0 or a[k] != a[k - 1]]


class TestPositions:
    @pytest.mark.parametrize("count", [1, 2, 12, 60, 128, 129, 1000])
    @pytest.mark.parametrize("top", [2000, 2**24, 2**62])
    def test_equal_a_dictionary(self, count, top):
        rng = np.random.default_rng(count)
        keys = np.unique(rng.integers(0, top, count))
        place_of = {value: k for k, value in enumerate(keys.tolist())}
        values = np.concatenate((rng.choice(keys, 500), rng.integers(0, top, 500), rng.choice(keys, 50) + 1))
        place, there = positions(values, keys)
        assert there.tolist() == [value in place_of for value in values.tolist()]
        assert place[there].tolist() == [place_of[value] for value in values[there].tolist()]
        assert place.min() >= 0 and place.max() < len(keys)

    def test_no_value_is_mistaken_for_one_with_the_same_low_bits_or_hash(self):
        """2^32 apart, negative, and all neighbours: every slot of the table is hit, also the empty ones."""
        keys = np.array([0, 5, 70_000])
        values = np.concatenate((keys + 2**32, keys - 2**32, -keys[1:], np.arange(-9000, 9000)))
        _, there = positions(values, keys)
        assert values[there].tolist() == [0, 5]

    def test_ids_that_collide_under_every_factor(self):
        """40 multiples of 2^28 have 16 values in 32 bits."""
        keys = np.arange(40) * 2**28
        place, there = positions(keys[::-1], keys)
        assert there.all()
        assert place.tolist() == list(range(39, -1, -1))

    def test_nothing_to_find(self):
        place, there = positions(np.zeros(0, dtype=np.int32), np.array([3]))
        assert len(place) == len(there) == 0
