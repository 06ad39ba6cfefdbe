from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from helpers.pq_split import random_split


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("split")
    return folder, random_split(folder)


@pytest.fixture
def split(made, tmp_path):
    """A ``random_split`` of the test's own, in ``tmp_path``."""
    folder, (target, prediction, *files) = made
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    return target, prediction, *(Path(tmp_path, file.name) for file in files)
