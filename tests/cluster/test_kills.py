"""Commands that are killed at random moments: the same command, given again, ends with the same files to the last byte.

KILLS=25 makes it a campaign, whose counts go into results/kills.json and the page on trust (``make kills``).
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from helpers.tiny_runs import BRIEF
from panoptic_occ.commands.predicting import UNFINISHED
from scripts.documents import ROOT, fill, markdown, publish

KILLS = int(os.environ.get("KILLS", "0"))
SIGNALS = (signal.SIGKILL, signal.SIGINT)
DATED = ("environment.json", "logs/**/*", "files_*.json")
"""What tells times: the environment, logs, and what the cache knows of files."""

Words = Callable[[Path, Path], list[str]]
OF_RUN = ("save_maps=true", "compare=[score,area]")
JOBS: Mapping[str, Words] = {
    "train": lambda here, cache: ["train", *BRIEF, f"runs_dir={here}", "force=true"],
    "evaluate": lambda here, cache: ["evaluate", *BRIEF, f"runs_dir={here}", *OF_RUN, "save_predictions=true"],
    "evaluate saved=true": lambda here, cache: ["evaluate", *BRIEF, f"runs_dir={here}", *OF_RUN, "saved=true"],
    "prepare": lambda here, cache: ["prepare", "preset=tiny", f"data.source.cache_dir={here}", "processes=1"],
    "predict": lambda here, cache: [
        "predict", f"run={here}/scenes_tiny/run", f"input={here}/photos", f"output={here}/out"
    ],
    "pq": lambda here, cache: [
        "pq", f"--gt_json_file={next(cache.rglob('panoptic_val.json'))}", f"--json={here}/pq.json", "--processes=1",
        f"--pred_json_file={next(cache.rglob('panoptic_val.json'))}",
    ],
}  # fmt: skip
"""The words of each command, by the folder that it writes into and that of the painted scenes."""


def tree(folder: Path) -> dict[str, str]:
    """The content of every file below ``folder`` but those that tell times."""
    dated = {path for pattern in DATED for path in folder.rglob(pattern)}
    kept = [path for path in folder.rglob("*") if path.is_file() and path not in dated]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in kept}


@pytest.fixture(scope="module")
def stored(commands: Any, undisturbed: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with stored predictions, and photographs."""
    folder = tmp_path_factory.mktemp("stored") / "here"
    shutil.copytree(undisturbed, folder)
    (folder / "photos").mkdir()
    for k in range(3):
        Image.effect_mandelbrot((96, 64 + k), (-2, -1, 1, 1), 20).convert("RGB").save(folder / "photos" / f"{k}.png")
    commands.run(*JOBS["evaluate"](folder, cache))
    return folder


ONE_TABLE = """
import sys
from dataclasses import replace
from pathlib import Path
from scripts.tables import command
from scripts.tables.tables import load

table = load("ocfusion/table8")
rows = [row for row in table.rows if row.name == "inter-class + intra-class" and row.backbone == "R50"]
command.load = lambda name: replace(table, rows=tuple(rows))
sys.exit(command.main(sys.argv[2:], Path(sys.argv[1])))
"""
"""``python -m scripts.tables`` of a table with one row."""


@pytest.fixture(scope="module")
def counts() -> Iterator[dict[str, dict[str, int]]]:
    """Kills by command and signal, written at the end of a campaign."""
    counted: dict[str, dict[str, int]] = {}
    yield counted
    if KILLS and counted.keys() == {*JOBS, "scripts.tables"}:
        rows = [(f"`{job}`", *numbers.values()) for job, numbers in counted.items()]
        table = markdown(["command", "random moments", "it was still running", "something was lost"], rows)
        publish(ROOT / "results" / "kills.json", counted, table)
        fill("kills", table, "make kills")


@pytest.mark.parametrize("job", JOBS)
def test_nothing_is_lost(
    job: str, commands: Any, undisturbed: Path, stored: Path, cache: Path, counts: dict[str, dict[str, int]]
) -> None:
    here = stored.parent / "work"
    words = JOBS[job](here, cache)

    def afresh() -> None:
        shutil.rmtree(here, ignore_errors=True)
        shutil.copytree(stored if job in ("evaluate saved=true", "predict") else undisturbed, here)

    afresh()
    start = time.monotonic()
    commands.run(*words)
    duration, whole = time.monotonic() - start, tree(here)
    moments = random.Random(f"{job} {KILLS}")
    counted = counts.setdefault(job, {"moments": 0, "running": 0, "lost": 0})
    for number in range(max(KILLS, 1)):
        afresh()
        running = commands.start(*words)
        time.sleep(moments.uniform(0.1, 0.9) * duration)
        alive = running.processes[0].is_alive()
        with suppress(ProcessLookupError):
            os.kill(running.processes[0].pid, SIGNALS[number % 2])
        running.wait()
        replaces = job == "predict" and not (here / "out" / UNFINISHED).exists()  # it had just ended
        commands.run(*words, *(["force=true"] if replaces else []))
        same = tree(here) == whole
        for name, count in (("moments", 1), ("running", alive), ("lost", not same)):
            counted[name] += int(count)
        assert same, f"{SIGNALS[number % 2].name}: {sorted(set(tree(here).items()) ^ set(whole.items()))[:6]}"


@pytest.mark.skipif(not KILLS, reason="two minutes; `make kills` runs it")
def test_nothing_of_a_table_is_lost(commands: Any, tmp_path: Path, counts: dict[str, dict[str, int]]) -> None:
    """With all processes that it has started, as Ctrl-C, SLURM and a container do it; minutes are not compared."""
    here = tmp_path / "here"
    words = ["ocfusion/table8", "data=tiny", "seeds=0", *commands.words, f"runs_dir={here}/runs"]
    line = [sys.executable, "-c", ONE_TABLE, str(here), *words]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "src")])}

    def start() -> subprocess.Popen[bytes]:
        shutil.rmtree(here, ignore_errors=True)
        return subprocess.Popen(line, env=environment, cwd=ROOT, start_new_session=True)

    begun = time.monotonic()
    assert start().wait() == 0
    duration, whole = time.monotonic() - begun, tree(here / "runs" / "scenes_tiny")
    moments = random.Random(f"tables {KILLS}")
    counted = counts.setdefault("scripts.tables", {"moments": 0, "running": 0, "lost": 0})
    for number in range(max(KILLS // 3, 1)):
        running = start()
        time.sleep(moments.uniform(0.2, 0.9) * duration)
        alive = running.poll() is None
        with suppress(ProcessLookupError):
            os.killpg(running.pid, SIGNALS[number % 2])
        running.wait()
        assert subprocess.run(line, env=environment, cwd=ROOT, check=False).returncode == 0
        results, found = list(here.rglob("ocfusion_table8_tiny.json")), tree(here / "runs" / "scenes_tiny")
        same = bool(results) and found == whole
        for name, count in (("moments", 1), ("running", alive), ("lost", not same)):
            counted[name] += int(count)
        assert same, f"{SIGNALS[number % 2].name}: {sorted(set(found.items()) ^ set(whole.items()))[:6]}"
