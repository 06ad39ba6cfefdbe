from __future__ import annotations

import pytest

from helpers.pq_split import random_split


@pytest.fixture
def split(tmp_path):
    return random_split(tmp_path)
