"""Runs on a handful of scenes."""

from __future__ import annotations

from pathlib import Path

BASE = ["experiment=tiny", "trainer=cpu", "trainer.enable_progress_bar=false"]
Trained = tuple[Path, dict[str, object]]
"""The folder of all runs, and the metrics of the one that is there."""


def options(cache: Path, runs: Path, *more: str) -> list[str]:
    return [*BASE, f"data.source.cache_dir={cache}", f"runs_dir={runs}", *more]
