"""One worker a folder, also when the workers are jobs on different machines of a cluster.

The lock is a file beside the folder that its owner touches every few seconds (``filelock.SoftFileLease``).  It needs
nothing of the file system but exclusive creation, and it survives a dead owner: the file of a process that has ended on
this machine is taken over at once, one of another machine when it has not been touched for ``stale_after`` seconds,
measured by the clock of the one who waits.  So is a file that is no lock of ours: empty, cut off, of another program.
"""

from __future__ import annotations

import logging
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from filelock import LeaseCompromise, LeaseSettingsMismatch, SoftFileLease, Timeout

from panoptic_occ.common.distributed import broadcast_from_main, is_distributed, is_main_process
from panoptic_occ.common.errors import CheckpointError
from panoptic_occ.common.files import cannot_write, check_regular, remove_leftovers, write_text

log = logging.getLogger(__name__)

STALE_AFTER = 60.0
"""Seconds without a sign of life after which an owner on another machine counts as dead."""
HEARTBEATS = 12  # signs of life within that time
REMIND = 60.0  # seconds between two messages of one who waits


Busy = Literal["wait", "refuse"]
Sign = tuple[int, int]


@contextmanager
def work_lock(
    folder: Path,
    what: str,
    *,
    busy: Busy,
    progress: Callable[[], str] = str,
    stale_after: float = STALE_AFTER,
    alone: bool = False,
) -> Iterator[None]:
    """Lets one run at a time do ``what`` (as in "training of the base") in ``folder``.

    While another run does it, this one waits and says for whom, with the other's ``progress``, or refuses with
    CheckpointError.  The processes of one run (DDP) hold the lock together, except for one that works ``alone``.  What
    a killed owner left half-written is removed.  DataError when no file can be made there.
    """
    if not (alone or is_main_process() or is_distributed()):  # started by the first process, which holds the lock
        yield
        return
    lock = _Lock(folder, what, busy, progress, stale_after)
    while not (lock.acquire() if alone else broadcast_from_main(lock.acquire)):
        time.sleep(min(stale_after / HEARTBEATS, 1.0))
    try:
        yield
    finally:
        lock.release()


@dataclass
class _Lock:
    """The lock of a folder, for one attempt after the other."""

    folder: Path
    what: str
    busy: Busy
    progress: Callable[[], str]
    stale_after: float
    first_sign: Sign | None = None
    last_change: tuple[Sign | None, float] | None = None
    last_message: float | None = None

    def __post_init__(self) -> None:
        self.path = self.folder.with_name(f".{self.folder.name}.lock")  # the folder can be removed and made again
        self.note = self.path.with_suffix(".owner")
        heartbeat = self.stale_after / HEARTBEATS
        self.lease = SoftFileLease(
            self.path, lease_duration=self.stale_after, heartbeat_interval=heartbeat, on_compromise=self._report_loss
        )

    def acquire(self) -> bool:
        """One attempt: whether this process has the lock; CheckpointError when it shall not wait for a living owner."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with suppress(FileNotFoundError):
                check_regular(self.path)
            self.lease.acquire(timeout=0)
        except (Timeout, LeaseSettingsMismatch):
            self._remove_foreign()
            self._wait()
            return False
        except OSError as error:
            raise cannot_write(self.path, error) from None
        write_text(self.note, f"{self.lease.token} {_this_process()}")
        remove_leftovers(self.folder)
        if self.last_message is not None:
            log.info("%s: going on", self.folder)
        return True

    def release(self) -> None:
        """Gives the lock back, if this process has it."""
        if self.lease.is_locked:
            if self.lease.compromise is None:
                self.note.unlink(missing_ok=True)
            self.lease.release()

    def _wait(self) -> None:
        """Says for whom this process waits.  An owner that touches its lock between two attempts is alive."""
        sign = _sign_of_life(self.path)
        alive = None not in (sign, self.first_sign) and sign != self.first_sign
        self.first_sign = self.first_sign or sign
        if alive and self.busy == "refuse":
            raise CheckpointError(
                f"{self.folder}: another run is at work here ({self._owner()}); wait for it, stop it, or give this run "
                "another run_name"
            )
        now = time.monotonic()
        if self.last_message is None or now - self.last_message > REMIND:
            self.last_message = now
            state = "".join(f", {text}" for text in [self.progress()] if text)
            log.info("%s: waiting for %s by %s%s", self.folder, self.what, self._owner(), state)

    def _remove_foreign(self) -> None:
        """Removes a lock that is none of ours, once nobody has touched it for ``stale_after`` seconds."""
        owner, sign, now = self.lease.owner, _sign_of_life(self.path), time.monotonic()
        if owner is not None and owner.mode == "lease" and owner.lease_duration == self.stale_after:
            return  # which the lease takes over
        if self.last_change is None or self.last_change[0] != sign:
            self.last_change = sign, now
        if now - self.last_change[1] < self.stale_after:
            return
        # moved away before it is judged, so that of two who wait none removes the new lock of the other
        aside = self.path.with_name(f"{self.path.name}.{os.getpid()}")
        with suppress(FileNotFoundError):
            os.rename(self.path, aside)
            if _sign_of_life(aside) != sign:
                with suppress(FileExistsError):
                    os.link(aside, self.path, follow_symlinks=False)
            aside.unlink()

    def _owner(self) -> str:
        """The owner in words."""
        record = self.lease.owner
        if record is None:
            return "an unknown owner"
        try:
            check_regular(self.note)
            token, _, words = self.note.read_text(encoding="utf-8").partition(" ")
        except OSError:
            token = words = ""
        # else the note is of an owner before this one
        return words if token == record.token else f"process {record.pid} on {record.hostname.partition('?')[0]}"

    def _report_loss(self, loss: LeaseCompromise) -> None:
        log.error(
            "%s: lost the lock (%s): this process could not touch it for a long time, and another run may have taken "
            "over; what is written stays whole, but the work may be done twice",
            self.folder,
            loss.reason,
        )


def _sign_of_life(path: Path) -> Sign | None:
    """Which file the lock is, and when its owner has touched it last (ns); None when there is none."""
    try:
        with open(path, "rb") as file:  # opened, because some network file systems answer stat from memory
            state = os.fstat(file.fileno())
    except OSError:
        return None
    return state.st_ino, state.st_mtime_ns


def _this_process() -> str:
    """This process in words: job, process, machine, time and command."""
    job, array, task = (os.environ.get(f"SLURM_{name}") for name in ("JOB_ID", "ARRAY_JOB_ID", "ARRAY_TASK_ID"))
    number = f"{array}_{task}" if array else job
    slurm = f"SLURM job {number}, " if number else ""
    command = "" if "SUBMITIT_EXECUTOR" in os.environ else f": {shlex.join(sys.argv)}"
    return f"{slurm}process {os.getpid()} on {os.uname().nodename} since {time.strftime('%Y-%m-%d %H:%M:%S')}{command}"
