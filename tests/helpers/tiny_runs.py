"""Runs on a handful of scenes, in this process and in one of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

BASE = ["experiment=tiny", "trainer=cpu", "trainer.enable_progress_bar=false"]
Trained = tuple[Path, dict[str, object]]
"""The folder of all runs, and the metrics of the one that is there."""


def options(cache: Path, runs: Path, *more: str) -> list[str]:
    return [*BASE, f"data.source.cache_dir={cache}", f"runs_dir={runs}", *more]


def start(cache: Path, runs: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "panoptic_occ.train", *options(cache, runs)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True)


def kill_when(process: subprocess.Popen[bytes], runs: Path, pattern: str, number: int = signal.SIGKILL) -> None:
    """A signal to the whole process group as soon as a file that fits ``pattern`` exists."""
    deadline = time.monotonic() + 180
    while not list(runs.rglob(pattern)):
        if process.poll() is not None or time.monotonic() > deadline:
            raise AssertionError(f"no {pattern}: {process.communicate()[1].decode()[-2000:]}")
        time.sleep(0.005)
    os.killpg(process.pid, number)
    process.wait()
