"""Offline runs of W&B, read back from the files that they leave."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2

from panoptic_occ.runs.build import plan_of
from panoptic_occ.runs.plan import RunPlan

BLOCK = 32768
FULL, FIRST, LAST = 1, 2, 4  # kinds of fragments; in between, 3


@dataclass
class OfflineRun:
    """What one start of a W&B run has written."""

    folder: Path
    run: Any = None
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    exit_code: int | None = None


def fragments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Kind and content of every fragment of a log in LevelDB's format, after W&B's own header of 7 bytes."""
    place = 7
    while place + 7 <= len(data):
        left = BLOCK - place % BLOCK
        if left < 7:  # too short for another fragment
            place += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, place)
        yield kind, data[place + 7 : place + 7 + length]
        place += 7 + length


def offline_runs(folder: Path) -> list[OfflineRun]:
    """All starts of the W&B run of ``folder``, the first one first."""
    return [complete(file) for file in sorted(folder.glob("wandb/offline-run-*/*.wandb"))]


def complete(file: Path) -> OfflineRun:
    """A run that has ended; W&B's own process may be a moment behind with its file."""
    deadline = time.monotonic() + 30
    while (start := read_run(file)).exit_code is None and time.monotonic() < deadline:
        time.sleep(0.1)
    return start


def read_run(file: Path) -> OfflineRun:
    start, message = OfflineRun(file.parent / "files"), b""
    for kind, part in fragments(file.read_bytes()):
        message = part if kind in (FULL, FIRST) else message + part
        if kind not in (FULL, LAST):
            continue
        record = wandb_internal_pb2.Record.FromString(message)
        if record.HasField("run"):
            start.run = record.run
            start.config |= values(record.run.config.update)
        elif record.HasField("config"):
            start.config |= values(record.config.update)
        elif record.HasField("history"):
            start.history.append(values(record.history.item))
        elif record.HasField("exit"):
            start.exit_code = record.exit.exit_code
    return start


def values(items: Any) -> dict[str, Any]:
    return {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in items}


def logging_plan(folder: Path, *words: str, logger: str = "wandb") -> RunPlan:
    return plan_of([f"logger={logger}", "compare=[]", f"runs_dir={folder}", *words])
