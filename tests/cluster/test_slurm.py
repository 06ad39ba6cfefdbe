"""Sweeps and preemption on a real SLURM of one node, the private one of scripts/slurm (make test-slurm)."""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers.tiny_runs import TINY, read

pytestmark = pytest.mark.slurm

LAUNCHER = ("hydra/launcher=slurm_cpu", "hydra.launcher.cpus_per_task=1", "hydra.launcher.mem_gb=1")
LONGER = (
    *TINY, "compare=[score]", "data.num_workers=1", "schedule.base.steps=24",
    "schedule.base.milestones=[20]", "schedule.base.checkpoint_every=4",
    "validate.every=null",  # a signal that comes in a validation saves no step
)  # fmt: skip
TRACKED = "logger=[csv,wandb]"  # W&B's own process gets the signals too
PATIENCE = 900.0  # seconds; a loaded machine is slow


def call(*words: str) -> str:
    return subprocess.run(words, capture_output=True, text=True, timeout=60, check=False).stdout


def until(what: str, done: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + PATIENCE
    while not (result := done()):
        assert time.monotonic() < deadline, f"waited too long for {what}\n{call('squeue')}"
        time.sleep(0.2)
    return result


@pytest.fixture(scope="session")
def slurm() -> Iterator[Path]:
    """The folder of the private cluster; skips where none runs, and never touches another one."""
    folder = Path(os.environ.get("SLURM_TEST_DIR", "/nonexistent"))
    if os.environ.get("SLURM_CONF") != str(folder / "slurm.conf") or not call("sinfo", "--noheader"):
        pytest.skip("no private SLURM; make test-slurm starts one")
    stop = threading.Event()
    hurry = threading.Thread(target=_hurry, args=(stop,), daemon=True)
    hurry.start()
    yield folder
    stop.set()
    hurry.join()


def _hurry(stop: threading.Event) -> None:
    """Starts jobs that were queued again after three seconds instead of the two minutes that SLURM takes."""
    seen: dict[str, float] = {}
    while not stop.wait(0.5):
        for line in call("squeue", "--noheader", "--array", "--states=PENDING", "--format=%i|%r").splitlines():
            job, _, reason = line.partition("|")
            if reason == "BeginTime" and time.monotonic() - seen.setdefault(job, time.monotonic()) > 3:
                call("scontrol", "update", f"JobId={job}", "StartTime=now")


@pytest.fixture(autouse=True)
def empty_queue(slurm: Path) -> Iterator[None]:
    yield
    call("scancel", f"--user={os.environ.get('USER', 'root')}")
    until("an empty queue", lambda: not call("squeue", "--noheader"))


def configure(slurm: Path, grace: int, user_signal: bool) -> None:
    """Chooses what SLURM does when it preempts a job."""
    file = slurm / "slurm.conf"
    text = re.sub(r"GraceTime=\d+", f"GraceTime={grace}", file.read_text())
    text = re.sub(r"SlurmctldParameters=.*\n", "", text)
    file.write_text(text + ("SlurmctldParameters=preempt_send_user_signal\n" if user_signal else ""))
    call("scontrol", "reconfigure")
    until("the settings", lambda: f"GraceTime={grace}" in call("scontrol", "show", "partition", "main"))


def start(folder: Path, *words: str) -> subprocess.Popen[str]:
    """A sweep in ``folder``."""
    command = [sys.executable, *words, *LAUNCHER, f"runs_dir={folder}/runs", f"hydra.sweep.dir={folder}/sweep"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=folder)


def train(folder: Path, cache: Path, *words: str) -> subprocess.Popen[str]:
    return start(folder, "-m", "panoptic_occ.train", "-m", *LONGER, f"data.source.cache_dir={cache}", *words)


def end(sweep: subprocess.Popen[str]) -> tuple[int, str]:
    out, _ = sweep.communicate(timeout=PATIENCE)
    return sweep.returncode, out


def job_logs(folder: Path) -> str:
    return "\n".join(path.read_text() for path in sorted(folder.glob("sweep/.submitit/*/*_log.err")))


def metrics(folder: Path) -> dict[str, Any]:
    return read(next(folder.glob("runs/scenes_tiny/ocfusion*/metrics.json")))


@pytest.fixture(scope="session")
def undisturbed(slurm: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Metrics of a run that nobody disturbs; and in the same sweep another method, on the same base."""
    folder = tmp_path_factory.mktemp("undisturbed")
    status, out = end(train(folder, cache, "method=ocfusion,rap"))
    assert status == 0, out
    assert "sweep: 2 finished, 0 skipped, 0 failed" in out
    assert job_logs(folder).count("stage 'base' trains") == 1  # the other job waited, or came later
    return metrics(folder)


def preempt() -> None:
    """A more important job wants the whole node, for a moment."""
    cpus = call("sinfo", "--noheader", "--format=%c").split()[0]
    call("sbatch", "--partition=high", f"--cpus-per-task={cpus}", "--output=/dev/null", "--wrap=sleep 1")


@pytest.mark.parametrize("user_signal", [False, True])
def test_preempted_jobs_end_as_if_nothing_had_been(
    slurm: Path, tmp_path: Path, cache: Path, undisturbed: dict[str, Any], user_signal: bool
) -> None:
    """Two jobs at once, in a partition with and in one without time of grace."""
    configure(slurm, 20, user_signal)
    sweeps = {}
    for partition in ("main", "abrupt"):
        (folder := tmp_path / partition).mkdir()
        sweeps[folder] = train(folder, cache, "method=ocfusion", TRACKED, f"hydra.launcher.partition={partition}")
    for folder in sweeps:
        until("a checkpoint", lambda folder=folder: list(folder.glob("runs/*/base_*/checkpoints/*.ckpt")))
    preempt()
    for folder, sweep in sweeps.items():
        status, out = end(sweep)
        logs = job_logs(folder)
        assert status == 0, out + logs
        assert ("SIGUSR2" if user_signal else "SIGTERM") + ": stopping after this step" in logs
        assert "continuing stage 'base' from" in logs
        if folder.name == "main":  # else it has as long as KillWait, which a step on a loaded machine may exceed
            assert "saved step" in logs
        assert metrics(folder) == undisturbed
        assert len(list(folder.glob("runs/*/base_*/wandb/offline-run-*"))) > 1  # one for each start, of one W&B run
        (id_file,) = folder.glob("runs/*/base_*/wandb_id")
        assert {f.stem for f in folder.glob("runs/*/base_*/wandb/*/run-*.wandb")} == {f"run-{id_file.read_text()}"}


def test_a_job_that_reaches_its_time_limit_goes_on(slurm: Path, tmp_path: Path, cache: Path) -> None:
    """SLURM tells a job of one minute to stop some time before; queued again, it gets all the time it wants."""
    configure(slurm, 20, True)
    longer = ("schedule.base.steps=300", "schedule.base.milestones=[250]", "schedule.base.checkpoint_every=50")
    limit = ("hydra.launcher.timeout_min=1", "hydra.launcher.signal_delay_s=42")
    sweep = train(tmp_path, cache, "method=panoptic_fpn", *longer, *limit)
    until("the limit", lambda: "SIGUSR2: stopping after this step" in job_logs(tmp_path))
    (job,) = call("squeue", "--noheader", "--format=%i").split()
    call("scontrol", "update", f"JobId={job}", "TimeLimit=10")
    status, out = end(sweep)
    assert status == 0 and "sweep: 1 finished" in out, out + job_logs(tmp_path)
    assert "continuing stage 'base'" in job_logs(tmp_path)


def test_a_cancelled_job_stays_cancelled(slurm: Path, tmp_path: Path, cache: Path) -> None:
    configure(slurm, 20, False)
    sweep = train(tmp_path, cache, "method=ocfusion")
    until("training", lambda: "stage 'base' trains" in job_logs(tmp_path))
    (job,) = call("squeue", "--noheader", "--format=%i").split()
    call("scancel", job)
    status, out = end(sweep)
    assert status == 1
    assert "job 0 cancelled: " in out and "Restarts=0" in call("scontrol", "show", "job", job)


def test_two_processes_stop_and_go_on_together(slurm: Path, tmp_path: Path, cache: Path) -> None:
    configure(slurm, 20, True)
    both = ("trainer.devices=2", "trainer.strategy=ddp", TRACKED)
    sweep = train(tmp_path, cache, "method=ocfusion", *both)
    until("a checkpoint", lambda: list(tmp_path.glob("runs/*/base_*/checkpoints/*.ckpt")))
    preempt()
    status, out = end(sweep)
    logs = job_logs(tmp_path)
    assert status == 0, out + logs
    assert "continuing stage 'base' from" in logs
    assert metrics(tmp_path)["images"] == 8


def test_twenty_jobs_with_random_kills(slurm: Path, tmp_path: Path) -> None:
    """Some jobs are killed outright, some are told to stop; one fails by itself; the same command completes them."""
    words = (str(Path(__file__).with_name("tiny_app.py")), "-m", "seed=range(20)", "compare=[]")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "broken").touch()
    sweep = start(tmp_path, *words)
    dice, killed = random.Random(0), set()
    while sweep.poll() is None and len(killed) < 5:
        running = call("squeue", "--noheader", "--array", "--states=RUNNING", "--format=%i").split()
        begun = {file.parent.name for file in tmp_path.glob("runs/*/steps")}
        if begun and (fresh := [job for job in running if job not in killed]):
            job = dice.choice(fresh)
            killed.add(job)
            call("scancel", "--full" if len(killed) % 2 else "--batch", "--signal=KILL", job)
        time.sleep(0.7)
    status, out = end(sweep)
    results = sorted(int(file.parent.name) for file in tmp_path.glob("runs/*/result"))
    assert status == 1 and 13 not in results and len(results) >= 20 - 1 - len(killed)
    assert "job 13 failed: image 13: truncated" in out
    assert f"{20 - len(results)} of 20 jobs have no result" in out
    (tmp_path / "runs" / "broken").unlink()
    status, out = end(start(tmp_path, *words))
    assert status == 0, out
    assert f"sweep: {20 - len(results)} finished, {len(results)} skipped, 0 failed" in out
    for seed in range(20):
        assert float((tmp_path / "runs" / str(seed) / "result").read_text()) == seed / 100
