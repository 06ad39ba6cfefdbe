"""Connected components against those of scipy."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from panoptic_occ.ops.components import components


@settings(deadline=None, max_examples=80, derandomize=True)
@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(1, 12), st.integers(1, 4))
def test_every_component_is_one_of_scipy(seed: int, height: int, width: int, patch: int) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.integers(-2, 4, (height, width)).repeat(patch, axis=0).repeat(patch, axis=1)
    ours = components(torch.from_numpy(labels))
    numbers = ours.numbers.numpy()
    assert ours.labels.dtype == torch.int64 and (numbers >= 0).sum() == ours.areas.sum() == (labels >= 0).sum()
    number = 0
    for label in range(4):
        parts, count = ndimage.label(labels == label, np.ones((3, 3)))
        for part, window in zip(range(1, count + 1), ndimage.find_objects(parts), strict=True):
            assert np.array_equal(numbers == number, parts == part)
            assert ours.labels[number] == label and ours.windows[number] == window
            assert ours.areas[number] == (parts == part).sum()
            number += 1
    assert len(ours.labels) == number
    values = rng.integers(1, 9, number)
    assert np.array_equal(ours.spread(values), np.append(values, 0)[numbers])
    assert ours.spread(values > 4).dtype == bool


def test_rows_do_not_touch_around_the_edge() -> None:
    labels = torch.tensor([[-1, -1, 2], [2, -1, -1], [-1, -1, 2]])
    assert components(labels).numbers.tolist() == [[-1, -1, 0], [1, -1, -1], [-1, -1, 2]]


def test_diagonal_neighbours_are_connected() -> None:
    assert components(torch.tensor([[4, -1], [-1, 4]])).numbers.tolist() == [[0, -1], [-1, 0]]


def test_nothing_to_number() -> None:
    ours = components(torch.full((2, 3), -1))
    assert (ours.numbers == -1).all() and len(ours.labels) == 0 and ours.windows == ()
