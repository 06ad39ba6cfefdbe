"""Scenes and a run that the tests of this folder share."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.tiny_runs import TinyRun, tiny_run


@pytest.fixture(scope="session")
def trained(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    """An undisturbed run."""
    run = tiny_run(cache, tmp_path_factory.mktemp("runs"))
    run.train()
    return run


@pytest.fixture
def no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    def fit_stage(*args: object) -> None:
        raise AssertionError("a stage was trained")

    monkeypatch.setattr("panoptic_occ.commands.training.fit_stage", fit_stage)
