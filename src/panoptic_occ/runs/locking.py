"""One worker a folder, also when the workers are jobs on different machines of a cluster.

The lock is a file beside the folder that its owner touches every few seconds (``filelock.SoftFileLease``).  It needs
nothing of the file system but exclusive creation, and it survives a dead owner: the file of a process that has ended on
this machine is taken over at once, one of another machine when it has not been touched for ``stale_after`` seconds,
measured by the clock of the one who waits.
"""

from __future__ import annotations

import json
import logging
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from filelock import LeaseCompromise, SoftFileLease, Timeout

from panoptic_occ.common.distributed import broadcast_from_main, is_distributed, is_main_process
from panoptic_occ.common.errors import CheckpointError, DataError
from panoptic_occ.common.files import remove_leftovers, write_json

log = logging.getLogger(__name__)

STALE_AFTER = 60.0
"""Seconds without a sign of life after which an owner on another machine counts as dead."""
HEARTBEATS = 12  # signs of life within that time
REMIND = 60.0  # seconds between two messages of one who waits

Busy = Literal["wait", "refuse"]


def lock_path(folder: Path) -> Path:
    """The lock of ``folder``: beside it, so that the folder itself can be removed and made again."""
    return folder.with_name(f".{folder.name}.lock")


@contextmanager
def work_lock(
    folder: Path,
    what: str,
    *,
    busy: Busy,
    progress: Callable[[], str] = str,
    stale_after: float = STALE_AFTER,
) -> Iterator[None]:
    """Lets one run at a time do ``what`` (as in "training of the base") in ``folder``.

    While another run does it, this one waits and says for whom, with the other's ``progress``, or refuses with
    CheckpointError.  The processes of one run (DDP) hold the lock together.  What a killed owner left half-written is
    removed.  DataError when no file can be made there.
    """
    if not is_main_process() and not is_distributed():  # started by the first process, which holds the lock
        yield
        return
    attempt = _Attempt(folder, what, busy, progress, stale_after)
    while not broadcast_from_main(attempt):
        time.sleep(min(stale_after / HEARTBEATS, 1.0))
    try:
        yield
    finally:
        attempt.release()


class _Attempt:
    """Tries to get a lock; called again and again until it is there."""

    def __init__(self, folder: Path, what: str, busy: Busy, progress: Callable[[], str], stale_after: float) -> None:
        self.folder = folder
        self.path = lock_path(folder)
        self.note = self.path.with_suffix(".owner")
        self.what = what
        self.busy = busy
        self.progress = progress
        self.lease = SoftFileLease(
            self.path,
            lease_duration=stale_after,
            heartbeat_interval=stale_after / HEARTBEATS,
            on_compromise=self._lost,
        )
        self.sign: tuple[int, int] | None = None
        self.reminded: float | None = None

    def __call__(self) -> bool:
        """Whether the lock is ours now; CheckpointError when somebody works there and we shall not wait."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.lease.acquire(timeout=0)
        except Timeout:
            self._wait()
            return False
        except OSError as error:
            raise DataError(
                f"{self.path}: cannot write here ({error.strerror}); make the folder writable, free some space, or "
                "choose another runs_dir"
            ) from None
        write_json(self.note, {"token": self.lease.token, **_about_us()})
        remove_leftovers(self.folder)
        if self.reminded is not None:
            log.info("%s: going on", self.folder)
        return True

    def _wait(self) -> None:
        """Says what is waited for; an owner is known to live when it touches its lock before our eyes."""
        sign = _sign_of_life(self.path)
        alive = None not in (sign, self.sign) and sign != self.sign
        self.sign = self.sign or sign
        if alive and self.busy == "refuse":
            raise CheckpointError(
                f"{self.folder}: another run is at work here ({self._owner()}); wait for it, stop it, or give this run "
                "another run_name"
            )
        now = time.monotonic()
        if self.reminded is None or now - self.reminded > REMIND:
            self.reminded = now
            log.info("%s: waiting for %s by %s%s", self.folder, self.what, self._owner(), _after_comma(self.progress()))

    def _owner(self) -> str:
        """The owner in words."""
        record = self.lease.owner
        if record is None:
            return "an unknown owner"
        try:
            note = json.loads(self.note.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            note = {}
        if note.get("token") != record.token:  # of an owner before this one
            return f"process {record.pid} on {record.hostname.partition('?')[0]}"
        job = f"SLURM job {note['job']}, " if note["job"] else ""
        command = f": {note['command']}" if note["command"] else ""
        return f"{job}process {note['pid']} on {note['host']} since {note['since']}{command}"

    def _lost(self, loss: LeaseCompromise) -> None:
        log.error(
            "%s: lost the lock (%s): this process could not touch it for a long time, and another run may have taken "
            "over; what is written stays whole, but the work may be done twice",
            self.folder,
            loss.reason,
        )

    def release(self) -> None:
        """Gives the lock back, if this process has it."""
        if self.lease.is_locked:
            if self.lease.compromise is None:
                self.note.unlink(missing_ok=True)
            self.lease.release()


def _sign_of_life(path: Path) -> tuple[int, int] | None:
    """What changes whenever the owner of the lock shows that it lives; None when there is no lock."""
    try:
        with open(path, "rb") as file:  # opened, because some network file systems answer stat from memory
            status = os.fstat(file.fileno())
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns


def _about_us() -> dict[str, object]:
    job, array, place = (os.environ.get(f"SLURM_{name}") for name in ("JOB_ID", "ARRAY_JOB_ID", "ARRAY_TASK_ID"))
    return {
        "host": os.uname().nodename,
        "pid": os.getpid(),
        "job": f"{array}_{place}" if array else job,
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
        "command": "" if "SUBMITIT_EXECUTOR" in os.environ else shlex.join(sys.argv),
    }


def _after_comma(text: str) -> str:
    return f", {text}" if text else ""
