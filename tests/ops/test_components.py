"""Connected components against a flood fill."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from panoptic_occ.ops.components import components


def flood_fill(labels: list[list[int]]) -> list[list[int]]:
    """Components numbered by label, then by their first pixel; pixel by pixel."""
    height, width = len(labels), len(labels[0])
    numbers = [[-1] * width for _ in range(height)]
    count = 0
    for label in sorted({v for row in labels for v in row if v >= 0}):
        for y in range(height):
            for x in range(width):
                if labels[y][x] != label or numbers[y][x] >= 0:
                    continue
                front = [(y, x)]
                while front:
                    v, u = front.pop()
                    if 0 <= v < height and 0 <= u < width and labels[v][u] == label and numbers[v][u] < 0:
                        numbers[v][u] = count
                        front += [(v + dy, u + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
                count += 1
    return numbers


def test_equals_a_flood_fill_on_random_maps() -> None:
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        labels = torch.randint(-2, 3, (9, 12), generator=generator)
        found = components(labels)
        assert found.numbers.tolist() == flood_fill(labels.tolist())
        assert len(found.labels) == len(found.windows) == int(found.numbers.max()) + 1
        for number, (label, window) in enumerate(zip(found.labels.tolist(), found.windows, strict=True)):
            here = found.numbers == number
            assert (labels[here] == label).all()
            assert here[window].sum() == here.sum(), "the window holds the whole component"
            assert here[window].any(dim=1)[[0, -1]].all() and here[window].any(dim=0)[[0, -1]].all(), "and is tight"


@settings(deadline=None, max_examples=80, derandomize=True)
@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(1, 12), st.integers(1, 4))
def test_every_component_is_one_of_scipy(seed: int, height: int, width: int, patch: int) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.integers(-1, 4, (height, width)).repeat(patch, axis=0).repeat(patch, axis=1)
    found = components(torch.from_numpy(labels))
    numbers = found.numbers.numpy()
    assert found.labels.dtype == torch.int64 and (numbers >= 0).sum() == found.areas.sum() == (labels >= 0).sum()
    number = 0
    for label in range(4):
        parts, count = ndimage.label(labels == label, np.ones((3, 3)))
        for part, window in zip(range(1, count + 1), ndimage.find_objects(parts), strict=True):
            assert np.array_equal(numbers == number, parts == part)
            assert found.windows[number] == window and found.areas[number] == (parts == part).sum()
            number += 1
    assert len(found.labels) == number
    values = rng.integers(1, 9, number)
    assert np.array_equal(found.spread(values), np.append(values, 0)[numbers])
    assert found.spread(values > 4).dtype == bool


def test_rows_do_not_touch_around_the_edge() -> None:
    labels = torch.tensor([[-1, -1, 2], [2, -1, -1], [-1, -1, 2]])
    assert components(labels).numbers.tolist() == [[-1, -1, 0], [1, -1, -1], [-1, -1, 2]]


def test_diagonal_neighbours_are_connected() -> None:
    assert components(torch.tensor([[4, -1], [-1, 4]])).numbers.tolist() == [[0, -1], [-1, 0]]


def test_nothing_to_number() -> None:
    found = components(torch.full((2, 3), -1))
    assert (found.numbers == -1).all() and len(found.labels) == 0 and found.windows == ()
