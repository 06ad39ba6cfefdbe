"""What clusters do to a run, each with a real process: after every fault the same command goes on and ends the same."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.tiny_runs import BRIEF, equal_weights, read
from panoptic_occ.common.locking import work_lock

KILLED = -signal.SIGKILL
STORED = ["base.zip", "truth.zip"]


def metrics(runs: Path) -> dict[str, Any]:
    return read(runs / "scenes_tiny" / "run" / "metrics.json")


def checkpoints(runs: Path) -> list[int]:
    """The steps of which there are checkpoints."""
    return sorted(int(path.stem) for path in runs.rglob("*.ckpt"))


def assert_same(runs: Path, undisturbed: Path) -> None:
    """The results and all weights of two runs are equal, and nothing is left of checkpoints and broken files."""
    assert metrics(runs) == metrics(undisturbed)
    for name in ("base.safetensors", "occlusion.safetensors"):
        assert equal_weights(*(next(folder.rglob(name)) for folder in (runs, undisturbed)))
    assert not [path for path in runs.rglob("*") if path.suffix in (".tmp", ".ckpt", ".lock")]


def only_error(log: str) -> str:
    """The one error message of a log, which must have no traceback."""
    assert "Traceback" not in log, log[-4000:]
    (error,) = [line for line in log.splitlines() if line.startswith("error: ")]
    return error


def spoil(path: Path) -> None:
    """Flips one bit in the middle."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_killed_at_the_worst_moments(commands: Any, undisturbed: Path, tmp_path: Path) -> None:
    train = ["train", *BRIEF, f"runs_dir={tmp_path}"]
    commands.fails(*train, fault="base 4 SIGKILL", status=KILLED)
    assert checkpoints(tmp_path) == [2]
    log = commands.fails(*train, fault="half 1 SIGKILL", status=KILLED)
    assert "continuing stage 'base' from" in log and "00000002.ckpt" in log
    assert checkpoints(tmp_path) == [2] and list(tmp_path.rglob(".*.ckpt.*.tmp"))
    commands.fails(*train, fault="base.safetensors 1 SIGKILL", status=KILLED)
    assert not list(tmp_path.rglob("base.safetensors"))
    commands.fails(*train, fault="occlusion 2 SIGKILL", status=KILLED)
    commands.fails(*train, fault="occlusion.safetensors 1 SIGKILL", status=KILLED)
    assert not list(tmp_path.rglob("occlusion.safetensors"))
    log = commands.fails(*train, fault="metrics.json 1 SIGKILL", status=KILLED)
    assert "continuing stage 'occlusion'" in log
    assert not (tmp_path / "scenes_tiny" / "run" / "metrics.json").exists()
    log = commands.run(*train)
    assert "stage '" not in log  # both stages were finished
    assert_same(tmp_path, undisturbed)


def test_told_to_stop_in_both_stages(commands: Any, undisturbed: Path, tmp_path: Path) -> None:
    """Unlike after SIGKILL the run goes on with the very next step, also in the middle of an epoch."""
    train = ["train", *BRIEF, f"runs_dir={tmp_path}"]
    for place, name, step in (("base 3", "SIGTERM", 3), ("base 1", "SIGINT", 4), ("occlusion 1", "SIGUSR1", 1)):
        log = commands.fails(*train, fault=f"{place} {name}", status=128 + signal.Signals[name])
        assert f"{name}: stopping after this step" in log and checkpoints(tmp_path)[-1] == step
    commands.run(*train)
    assert_same(tmp_path, undisturbed)


def test_a_second_run_for_the_same_folder_is_refused(commands: Any, tmp_path: Path) -> None:
    with work_lock(tmp_path / "scenes_tiny" / "run", "the run", busy="wait"):
        error = only_error(commands.fails("train", *BRIEF, f"runs_dir={tmp_path}"))
    assert "another run is at work here (process " in error


def test_a_loss_that_is_not_finite_and_a_data_worker_that_dies(
    commands: Any, undisturbed: Path, tmp_path: Path
) -> None:
    train = ["train", *BRIEF, f"runs_dir={tmp_path}", "data.num_workers=1"]
    error = only_error(commands.fails(*train, fault="base 4 nan"))
    assert "the loss of stage 'base' is not finite at step 3: " in error and "Lower schedule.base.lr" in error
    assert checkpoints(tmp_path) == [2]
    error = only_error(commands.fails(*train, fault="base 2 worker"))
    assert "DataLoader worker" in error and "data.num_workers" in error and "goes on from the last checkpoint" in error
    commands.run(*train)
    assert_same(tmp_path, undisturbed)


def test_damaged_checkpoints(commands: Any, undisturbed: Path, tmp_path: Path) -> None:
    train = ["train", *BRIEF, f"runs_dir={tmp_path}"]
    commands.fails(*train, fault="base 5 SIGKILL", status=KILLED)
    (folder,) = tmp_path.rglob("checkpoints")
    assert checkpoints(tmp_path) == [2, 4]
    spoil(folder / "00000004.ckpt")
    log = commands.fails(*train, fault="base 1 SIGKILL", status=KILLED)
    assert "00000004.ckpt: damaged (wrong checksum of" in log and f"from {folder}/00000002.ckpt" in log
    os.truncate(folder / "00000002.ckpt", 5000)
    log = commands.run(*train)
    assert "00000002.ckpt: damaged (File is not a zip file)" in log and "the stage begins anew" in log
    assert_same(tmp_path, undisturbed)


def test_damaged_weights_are_named_and_made_again(commands: Any, undisturbed: Path, tmp_path: Path) -> None:
    shutil.copytree(undisturbed, tmp_path, dirs_exist_ok=True)
    (tmp_path / "scenes_tiny" / "run" / "metrics.json").unlink()
    base, occlusion = (next(tmp_path.rglob(f"{stage}.safetensors")) for stage in ("base", "occlusion"))
    spoil(base)
    os.truncate(occlusion, occlusion.stat().st_size // 2)
    train = ["train", *BRIEF, f"runs_dir={tmp_path}"]
    for file in (occlusion, base):  # what names its base is read before it
        error = only_error(commands.fails(*train))
        assert f"{file}: " in error and "a damaged file is trained again once it is removed" in error
        file.unlink()
    commands.run(*train)
    assert_same(tmp_path, undisturbed)


def test_foreign_checkpoints(commands: Any, undisturbed: Path, tmp_path: Path) -> None:
    """With an intact ZIP: of other values, of code, without a part, of another network."""
    train = ["train", *BRIEF, f"runs_dir={tmp_path}"]
    commands.fails(*train, fault="base 4 SIGKILL", status=KILLED)
    (first,) = tmp_path.rglob("*.ckpt")
    whole = torch.load(first, weights_only=True)
    for step, content in ((3, [1, 2]), (4, {"a": Path()}), (5, {k: v for k, v in whole.items() if k != "loops"})):
        torch.save(content, first.with_name(f"{step:08d}.ckpt"))
    log = commands.fails(*train, fault="base 1 SIGKILL", status=KILLED)
    for said in (
        r"3.ckpt: damaged \(lacks callbacks, epoch,",
        r"4.ckpt: damaged \(Weights",
        r"5.ckpt: damaged \(lacks loops\)",
    ):
        assert re.search(said, log), log[-4000:]
    assert f"from {first}" in log
    torch.save({**whole, "state_dict": {"a": torch.zeros(1)}}, first.with_name("00000006.ckpt"))
    error = only_error(commands.fails(*train))
    assert f"{first.parent}: holds a checkpoint of another network (Missing key(s)" in error and "move the" in error
    first.with_name("00000006.ckpt").unlink()
    commands.run(*train)
    assert_same(tmp_path, undisturbed)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_of_several_that_is_killed(commands: Any, tmp_path: Path, rank: int) -> None:
    command = commands.start("train", *BRIEF, f"runs_dir={tmp_path}", processes=2, fault="base 4 SIGKILL", rank=rank)
    assert sorted(command.wait()) == [KILLED, 1]
    error = only_error(command.log)
    assert "another process of this run has ended (" in error and "goes on from the last checkpoint" in error


def test_more_memory_than_there_is(commands: Any, undisturbed: Path, tmp_path: Path) -> None:
    train = ["train", *BRIEF, f"runs_dir={tmp_path}"]
    error = only_error(commands.fails(*train, fault="base 4 memory"))
    assert "the memory of this machine does not suffice" in error and "data.batch_size" in error
    assert checkpoints(tmp_path) == [2]
    commands.run(*train)
    assert_same(tmp_path, undisturbed)


def mounted(*arguments: str | Path) -> None:
    if subprocess.run(["mount", *arguments], capture_output=True, check=False).returncode:
        pytest.skip("needs to mount (root)")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted("-t", "tmpfs", "-o", "size=64m", "tmpfs", folder)
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def test_a_full_disk(commands: Any, undisturbed: Path, small_disk: Path) -> None:
    train = ["train", *BRIEF, f"runs_dir={small_disk}"]
    for fault in ("base 4", "pictures.png 1", "image 2"):
        error = only_error(commands.fails(*train, fault=f"{fault} fill={small_disk}"))
        assert "No space left on device" in error and "0.0 MiB are free in" in error and "make room there" in error
        assert str(small_disk) in error and "run the same command again" in error
        if fault == "base 4":
            assert checkpoints(small_disk) == [2] and not list(small_disk.rglob("*.tmp"))
        assert not list(small_disk.rglob("metrics.json"))
        (small_disk / "filler").unlink()
    commands.run(*train)
    assert_same(small_disk, undisturbed)
    store = ["evaluate", *BRIEF, f"runs_dir={small_disk}", "save_predictions=true"]
    error = only_error(commands.fails(*store, fault=f"archive 5 fill={small_disk}"))
    assert ".zip: cannot write here (No space left on device)" in error
    assert not list(small_disk.rglob("*.zip"))
    (small_disk / "filler").unlink()
    commands.run(*store)
    assert set(STORED) < {path.name for path in small_disk.rglob("*.zip")}


def test_a_read_only_folder(commands: Any, undisturbed: Path, tmp_path: Path) -> None:
    folder = tmp_path / "runs"
    folder.mkdir()
    mounted("--bind", undisturbed, folder)
    try:
        mounted("-o", "remount,ro,bind", folder)
        assert "is finished" in commands.run("train", *BRIEF, f"runs_dir={folder}")
        error = only_error(commands.fails("train", *BRIEF, f"runs_dir={folder}", "run_name=other"))
        assert (
            f"{folder}/scenes_tiny/" in error
            and "Read-only file system" in error
            and "(runs_dir=..., output=...)" in error
        )
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def test_predictions_are_stored_whole_and_by_one_at_a_time(commands: Any, undisturbed: Path, tmp_path: Path) -> None:
    shutil.copytree(undisturbed, tmp_path, dirs_exist_ok=True)
    words = ["evaluate", *BRIEF, f"runs_dir={tmp_path}"]
    commands.fails(*words, "save_predictions=true", fault="archive 5 SIGKILL", status=KILLED)
    assert len(list(tmp_path.rglob("predictions_*/.*.tmp"))) == 3
    assert "base.zip: the file does not exist; to store them, run" in only_error(commands.fails(*words, "saved=true"))

    first = commands.start(*words, "save_predictions=true", fault="archive 5 SIGSTOP")
    wait_for(lambda: len(list(tmp_path.rglob("predictions_*/.*.tmp"))) == 3 and stopped(first.processes[0].pid))
    second = commands.start(*words, "save_predictions=true", "fusion.min_visible=0.7")
    wait_for(lambda: "waiting for the storing of predictions by process" in second.log)
    os.kill(first.processes[0].pid, signal.SIGCONT)
    assert first.wait() == second.wait() == [0], first.log + second.log
    assert not list(tmp_path.rglob("*.tmp"))
    log = commands.run(*words, "saved=true")
    folder = Path(log.rpartition("Results, per-class tables and pictures: ")[2].strip())
    assert read(folder / "metrics.json") == metrics(undisturbed)


def stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def wait_for(condition: Any, patience: float = 120) -> None:
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
