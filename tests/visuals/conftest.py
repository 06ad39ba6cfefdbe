from __future__ import annotations

import pytest

from panoptic_occ.structures.categories import Categories


@pytest.fixture
def categories() -> Categories:
    """Labels 0 cat and 1 dog (things), 2 grass and 3 sky (stuff)."""
    colors = {"cat": (220, 20, 60), "dog": (0, 82, 200), "grass": (60, 160, 60), "sky": (70, 130, 180)}
    return Categories.from_json(
        {"id": k, "name": name, "isthing": int(k < 2), "color": color} for k, (name, color) in enumerate(colors.items())
    )
