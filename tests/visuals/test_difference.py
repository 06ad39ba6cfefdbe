from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.maps import make_map
from panoptic_occ.visuals.difference import BROKEN, FIXED, NEITHER, SAME, difference, link

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


CAT, TWO = {1: 0}, {1: 0, 2: 0, 3: 2}
VOID, FULL = ([0] * 4, {}), ([1] * 4, CAT)
CASES = [  # ground truth, two results, and what differs
    # a cat that also takes a pixel of the left one; the other mends it, and gives one of its own to grass
    (([1, 1, 1, 2, 2, 2, 3, 0], TWO), ([8, 8, 9, 9, 9, 9, 7, 7], {9: 0, 8: 0, 7: 2}),
     ([5, 5, 5, 6, 6, 4, 4, 0], {5: 0, 6: 0, 4: 2}), [SAME, SAME, FIXED, SAME, SAME, BROKEN, SAME, NEITHER]),
    # other ids and another order of the segments are no difference
    (([1, 1, 2, 2, 3], TWO), ([1, 2, 2, 2, 3], TWO), ([40, 30, 30, 30, 2], {30: 0, 2: 2, 40: 0}), [SAME] * 5),
    (([1, 1, 2, 2], {1: 0, 2: 1}), ([1, 1, 1, 2], {1: 0, 2: 1}), ([2, 1, 2, 2], {1: 0, 2: 1}),
     [BROKEN, SAME, FIXED, SAME]),
    (FULL, VOID, VOID, [SAME] * 4),
    (FULL, VOID, FULL, [FIXED] * 4),
    (VOID, VOID, FULL, [NEITHER] * 4),
]  # fmt: skip


@pytest.mark.parametrize(("target", "a", "b", "kinds"), CASES)
def test_differences_by_hand(target, a, b, kinds):
    target, a, b = (make_map([row], labels) for row, labels in (target, a, b))
    there, back = difference(a, b, target), difference(b, a, target)
    assert there.kind.tolist() == [kinds]
    assert (there.fixed, there.broken, there.neither) == (back.broken, back.fixed, back.neither)
    assert there.pixels == back.pixels == len(kinds) - kinds.count(SAME)
