from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.maps import make_map
from panoptic_occ.visuals.difference import BROKEN, FIXED, NEITHER, SAME, difference
from panoptic_occ.visuals.linking import link

LABELS = {1: 0, 2: 0, 3: 1, 4: 2, 5: 3}


def objects(panoptic, keys):
    """The object of every pixel, by a loop."""
    of = {segment.id: key for segment, key in zip(panoptic.segments, keys, strict=True)}
    return [[of.get(i) for i in row] for row in panoptic.ids.tolist()]


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_difference_equals_a_loop_over_pixels(seed):
    rng = np.random.default_rng(seed)
    target, a, b = (
        make_map(np.kron(rng.integers(0, 6, (3, 4)), np.ones((2, 2))), LABELS, crowds=crowds)
        for crowds in ((2,), (), ())
    )
    maps = [objects(panoptic, keys) for panoptic, keys in zip((target, a, b), link([target, a, b]), strict=True)]
    crowd = (target.ids == 2).tolist()
    expected = np.zeros((6, 8), dtype=int)
    for y in range(6):
        for x in range(8):
            owner, one, two = (keys[y][x] for keys in maps)
            told = owner is not None and not crowd[y][x]
            if one == two:
                expected[y, x] = SAME
            elif told and two == owner:
                expected[y, x] = FIXED
            elif told and one == owner:
                expected[y, x] = BROKEN
            else:
                expected[y, x] = NEITHER
    change = difference(a, b, target)
    assert change.kind.tolist() == expected.tolist()
    counts = [int((expected == kind).sum()) for kind in (FIXED, BROKEN, NEITHER)]
    assert [change.fixed, change.broken, change.neither] == counts
    assert change.pixels == sum(counts)


def test_order_of_two_cats_by_hand():
    target = make_map([[1, 1, 1, 2, 2, 2, 3, 0]], {1: 0, 2: 0, 3: 2})
    score = make_map([[8, 8, 9, 9, 9, 9, 7, 7]], {9: 0, 8: 0, 7: 2})  # the right cat also takes a pixel of the left one
    method = make_map([[5, 5, 5, 6, 6, 4, 4, 0]], {5: 0, 6: 0, 4: 2})  # mends it, and gives one of its own to grass
    change = difference(score, method, target)
    assert change.kind.tolist() == [[SAME, SAME, FIXED, SAME, SAME, BROKEN, SAME, NEITHER]]
    assert (change.fixed, change.broken, change.neither) == (1, 1, 1)


def test_other_ids_and_another_segment_order_are_no_difference():
    target = make_map([[1, 1, 2, 2, 3]], {1: 0, 2: 0, 3: 2})
    a, b = make_map([[1, 2, 2, 2, 3]], {1: 0, 2: 0, 3: 2}), make_map([[40, 30, 30, 30, 2]], {30: 0, 2: 2, 40: 0})
    assert difference(a, b, target).pixels == 0


def test_swapping_the_results_swaps_fixed_and_broken():
    target = make_map([[1, 1, 2, 2]], {1: 0, 2: 1})
    a, b = make_map([[1, 1, 1, 2]], {1: 0, 2: 1}), make_map([[2, 1, 2, 2]], {1: 0, 2: 1})
    there, back = difference(a, b, target), difference(b, a, target)
    assert (there.fixed, there.broken) == (back.broken, back.fixed) == (1, 1)


def test_empty_maps():
    void = make_map(np.zeros((3, 4)), {})
    full = make_map(np.ones((3, 4)), {1: 0})
    assert difference(void, void, full).pixels == 0
    assert difference(void, full, full).fixed == 12
    assert difference(void, full, void).neither == 12
