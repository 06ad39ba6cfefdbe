from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pytest
import torch

from panoptic_occ.structures.categories import Categories
from panoptic_occ.structures.panoptic_map import PanopticMap, Segment

MakeMap = Callable[..., PanopticMap]


@pytest.fixture
def categories() -> Categories:
    """Labels 0 cat and 1 dog (things), 2 grass and 3 sky (stuff)."""
    colors = {"cat": (220, 20, 60), "dog": (0, 82, 200), "grass": (60, 160, 60), "sky": (70, 130, 180)}
    return Categories.from_json(
        {"id": k, "name": name, "isthing": int(k < 2), "color": color} for k, (name, color) in enumerate(colors.items())
    )


@pytest.fixture
def make_map() -> MakeMap:
    """``make_map(ids, labels, crowds)``: a map from an array of ids and the label of every id, in segment order."""

    def make(ids: object, labels: Mapping[int, int], crowds: tuple[int, ...] = ()) -> PanopticMap:
        array = np.asarray(ids, dtype=np.int64)
        segments = tuple(
            Segment(i, label, label < 2, int((array == i).sum()), i in crowds) for i, label in labels.items()
        )
        return PanopticMap(torch.from_numpy(array), segments)

    return make
