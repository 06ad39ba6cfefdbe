"""One worker a folder, with real processes that are killed, stopped and suspended."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Timer

import pytest
from filelock import SoftFileLease

from panoptic_occ.common.errors import CheckpointError, DataError
from panoptic_occ.common.locking import work_lock

STALE = 1.2

OWNER = """
import logging, signal, sys, time
from pathlib import Path
from panoptic_occ.common.locking import work_lock
logging.basicConfig()
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
with work_lock(Path(sys.argv[1]), "training", busy="wait", stale_after=float(sys.argv[2])):
    print("mine", flush=True)
    time.sleep(60)
"""

# Counts in a file, without any protection of its own, so that two at once lose a step.
COUNTER = """
import sys, time
from pathlib import Path
from panoptic_occ.common.locking import work_lock
folder = Path(sys.argv[1])
for _ in range(int(sys.argv[2])):
    with work_lock(folder, "counting", busy="wait", stale_after=float(sys.argv[3])):
        file = folder.with_name("count")
        value = int(file.read_text())
        time.sleep(0.002)
        file.write_text(str(value + 1))
"""


def lock_path(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.lock")


@contextmanager
def owner(folder: Path, *, host: str | None = None) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock of ``folder``, as if on the machine ``host``."""
    program = OWNER if host is None else f"import socket\nsocket.gethostname = lambda: {host!r}\n{OWNER}"
    command = [sys.executable, "-c", program, str(folder), str(STALE)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "mine\n"
        try:
            yield process
        finally:
            process.kill()


def count_together(folder: Path, times: int, stale: float = 30.0) -> None:
    (folder / "count").write_text("0")
    command = [sys.executable, "-c", COUNTER, str(folder / "a"), str(times), str(stale)]
    for process in [subprocess.Popen(command) for _ in range(3)]:
        assert process.wait(120) == 0
    assert (folder / "count").read_text() == str(3 * times)


def seconds(work: Callable[[], None]) -> float:
    start = time.monotonic()
    work()
    return time.monotonic() - start


def enter(folder: Path, busy: str = "wait") -> None:
    with work_lock(folder, "training", busy=busy, stale_after=STALE):  # type: ignore[arg-type]
        pass


def test_lock_lies_beside_the_folder_and_goes(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "base_1"
    with work_lock(folder, "training", busy="refuse"):
        assert lock_path(folder).exists() and lock_path(folder).parent == folder.parent
        assert not folder.exists()  # so that it can be removed and made again under the lock
    assert list(folder.parent.iterdir()) == []


def test_an_exception_gives_the_lock_back(tmp_path: Path) -> None:
    for error in (ValueError, SystemExit, KeyboardInterrupt):
        with pytest.raises(error), work_lock(tmp_path / "a", "training", busy="refuse"):
            raise error
    enter(tmp_path / "a", "refuse")


def test_two_folders_do_not_mind_each_other(tmp_path: Path) -> None:
    with owner(tmp_path / "a"):
        assert seconds(lambda: enter(tmp_path / "b", "refuse")) < STALE


def test_a_second_run_refuses_and_names_the_first(tmp_path: Path) -> None:
    with owner(tmp_path / "a") as process, pytest.raises(CheckpointError) as refused:
        enter(tmp_path / "a", "refuse")
    message = str(refused.value)
    assert f"process {process.pid} on {os.uname().nodename} since " in message
    assert "wait for it, stop it, or give this run another run_name" in message


def test_waiting_says_for_whom_and_how_far_it_is(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="panoptic_occ")
    with owner(tmp_path / "a") as process:
        Timer(2 * STALE, process.terminate).start()
        with work_lock(tmp_path / "a", "training", busy="wait", progress=lambda: "step 7 of 9", stale_after=STALE):
            assert process.wait(5) == 0
    waiting, going_on = caplog.messages
    assert f"/a: waiting for training by process {process.pid} on " in waiting and waiting.endswith(", step 7 of 9")
    assert going_on.endswith("/a: going on")


@pytest.mark.parametrize(
    ("job", "said"),
    [({"JOB_ID": "4711"}, "4711"), ({"JOB_ID": "1", "ARRAY_JOB_ID": "4710", "ARRAY_TASK_ID": "3"}, "4710_3")],
)
def test_the_job_of_the_owner_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, job: dict[str, str], said: str
) -> None:
    for name, value in job.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    with owner(tmp_path / "a"), pytest.raises(CheckpointError, match=rf"\(SLURM job {said}, process \d+"):
        enter(tmp_path / "a", "refuse")


def test_a_killed_owner_on_this_machine_is_replaced_at_once(tmp_path: Path) -> None:
    with owner(tmp_path / "a") as process:
        process.kill()
        process.wait()
        assert lock_path(tmp_path / "a").exists()
        assert seconds(lambda: enter(tmp_path / "a", "refuse")) < STALE


def test_a_killed_owner_on_another_machine_is_replaced_when_stale(tmp_path: Path) -> None:
    """A job that was requeued to another node must get its own folder back, so this holds for "refuse" too."""
    for busy in ("wait", "refuse"):
        with owner(tmp_path / "a", host="elsewhere") as process:
            process.kill()
            process.wait()
            assert STALE * 0.9 < seconds(lambda busy=busy: enter(tmp_path / "a", busy)) < STALE + 5  # type: ignore[misc]


def test_a_living_owner_on_another_machine_is_never_replaced(tmp_path: Path) -> None:
    with owner(tmp_path / "a", host="elsewhere") as process:
        with pytest.raises(CheckpointError, match="another run is at work here"):
            enter(tmp_path / "a", "refuse")
        Timer(2 * STALE, process.terminate).start()
        assert seconds(lambda: enter(tmp_path / "a")) > 1.9 * STALE and process.wait(5) == 0


def test_a_suspended_owner_hears_that_it_lost(tmp_path: Path) -> None:
    """SLURM can suspend a job for hours: somebody else takes over, and the first says so when it wakes up."""
    with owner(tmp_path / "a", host="elsewhere") as process:
        process.send_signal(signal.SIGSTOP)
        with work_lock(tmp_path / "a", "training", busy="wait", stale_after=STALE):
            process.send_signal(signal.SIGCONT)
            time.sleep(STALE / 2)
            process.terminate()
            _, errors = process.communicate(timeout=10)
            assert "lost the lock (owner-changed)" in errors
            assert lock_path(tmp_path / "a").exists()  # what it leaves behind is ours


def test_counting_together_loses_nothing(tmp_path: Path) -> None:
    count_together(tmp_path, 4)


def test_one_of_many_gets_the_lock_of_a_dead_owner(tmp_path: Path) -> None:
    with owner(tmp_path / "a") as process:
        process.kill()
        process.wait()
        count_together(tmp_path, 2)


def test_a_file_of_nobody_is_replaced(tmp_path: Path) -> None:
    """A full disk can leave an owner's file without its words."""
    lock_path(tmp_path / "a").write_text("half a rec")
    assert seconds(lambda: enter(tmp_path / "a")) < 10


def test_a_place_where_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"file/\.a\.lock: cannot write here .*choose another one .runs_dir="):
        enter(tmp_path / "file" / "a")


def test_processes_of_one_run_share_the_lock_unless_one_works_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that the first one started finds its lock, and goes on."""
    with owner(tmp_path / "a"):
        monkeypatch.setenv("LOCAL_RANK", "1")
        enter(tmp_path / "a", "refuse")
        with (
            pytest.raises(CheckpointError),
            work_lock(tmp_path / "a", "painting", busy="refuse", stale_after=STALE, alone=True),
        ):
            pass
        monkeypatch.setenv("LOCAL_RANK", "0")
        with pytest.raises(CheckpointError):
            enter(tmp_path / "a", "refuse")


FOREIGN = {
    "empty": b"",
    "cut off": b"filelock/2\nle",
    "of another program": b"4711\nelsewhere\n",
    "of another duration": b"9.0",
    "large": b"x" * 5000,
    "link": None,
}


@pytest.mark.parametrize("content", FOREIGN.values(), ids=FOREIGN)
@pytest.mark.parametrize("busy", ["wait", "refuse"])
def test_a_file_that_is_no_lock_of_ours_does_not_hold_for_ever(
    tmp_path: Path, content: bytes | None, busy: str
) -> None:
    if content is None:
        lock_path(tmp_path / "a").symlink_to(tmp_path / "nowhere")
    elif content == b"9.0":
        with SoftFileLease(tmp_path / "lease", lease_duration=9.0):
            lock_path(tmp_path / "a").write_bytes((tmp_path / "lease").read_bytes())
    else:
        lock_path(tmp_path / "a").write_bytes(content)
    assert seconds(lambda: enter(tmp_path / "a", busy)) < 4 * STALE
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_a_lock_that_is_no_file_is_named(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(lock_path(tmp_path / "a"))
    with pytest.raises(DataError, match=r"\.a\.lock: cannot write here \(is a .*, not a file\)"):
        enter(tmp_path / "a")


def test_of_many_who_wait_for_a_dead_lock_one_comes_at_a_time(tmp_path: Path) -> None:
    lock_path(tmp_path / "a").write_bytes(b"")
    count_together(tmp_path, 3, stale=STALE)
