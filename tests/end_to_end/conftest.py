"""Scenes and a run that the tests of this folder share."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.tiny_runs import BASE, Trained, options
from panoptic_occ.commands.training import train
from panoptic_occ.config.compose import compose
from panoptic_occ.data.scenes.source import ScenesSource
from panoptic_occ.runs.build import run_plan


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scenes painted once for all tests."""
    folder = tmp_path_factory.mktemp("cache")
    config = compose([*BASE, f"data.source.cache_dir={folder}"])
    ScenesSource(**{k: v for k, v in config.data.source.items() if k != "_target_"}).prepare()
    return folder


@pytest.fixture(scope="session")
def trained(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """An undisturbed run and its metrics."""
    runs = tmp_path_factory.mktemp("runs")
    return runs, train(run_plan(compose(options(cache, runs))))
