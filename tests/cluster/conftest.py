"""Commands as real processes that are quick to start: they are forked by a server that has imported everything."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import time
from collections.abc import Iterator, Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import pytest
from lightning_fabric.plugins.environments.lightning import find_free_network_port

from helpers.tiny_runs import BRIEF, QUIET, tiny_run
from panoptic_occ.runs.plan import prepared_data

FORKED = Path(__file__).with_name("forked.py")
PRELOADED = ["panoptic_occ.train", "panoptic_occ.evaluate", "panoptic_occ.commands.training", "panoptic_occ.runs.build"]
PRELOADED += ["panoptic_occ.commands.sweeps", "panoptic_occ.backbone.small", "torch._dynamo", "hydra.core.plugins"]
SMALL = ["data.batch_size=2", "schedule.reference_batch=2"]
SMALL += ["data.train_transform.short_edge=[64]", "data.train_transform.max_edge=64"]
SMALL += ["data.eval_transform.short_edge=64", "data.eval_transform.max_edge=64"]
PATIENCE = 240  # seconds until a process counts as one that hangs


class Command:
    """A running command of one or several processes."""

    def __init__(self, processes: Sequence[ForkServerProcess], log: Path) -> None:
        self.processes = processes
        self._log = log

    @property
    def log(self) -> str:
        """What all processes have said so far."""
        return self._log.read_text() if self._log.exists() else ""

    def wait(self) -> list[int | None]:
        """The exit status of every process, negative after a signal; none is left behind."""
        deadline = time.monotonic() + PATIENCE
        for process in self.processes:
            process.join(max(deadline - time.monotonic(), 0))
        hanging = [process for process in self.processes if process.is_alive()]
        for process in hanging:
            process.kill()
            process.join()
        assert not hanging, f"{len(hanging)} processes hang:\n{self.log[-4000:]}"
        return [process.exitcode for process in self.processes]


class Commands:
    """Starts commands of the suite."""

    def __init__(self, logs: Path, words: Sequence[str]) -> None:
        self.logs = logs
        self.words = tuple(words)
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(PRELOADED)
        self._started = 0

    def start(
        self, command: str, *words: str, processes: int = 1, fault: str = "", rank: int = 0, **environment: str
    ) -> Command:
        """Starts a command; several ``processes`` as torchrun would, the ``fault`` in that of ``rank``."""
        self._started += 1
        log = self.logs / f"{self._started}.log"
        places = [environment]
        if processes > 1:
            words = (*words, f"trainer.devices={processes}", "trainer.strategy=ddp")
            shared = {"WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes, "MASTER_ADDR": "127.0.0.1"}
            shared |= {"MASTER_PORT": find_free_network_port(), "TORCHELASTIC_RUN_ID": "test", "GROUP_RANK": 0}
            every = [shared | {"RANK": rank, "LOCAL_RANK": rank} for rank in range(processes)]
            places = [environment | {name: str(value) for name, value in ranked.items()} for ranked in every]
        started = []
        for place, variables in enumerate(places):
            common = () if command == "pq" else self.words  # pq has flags
            task = {"command": command, "words": [*common, *words], "environment": variables, "log": str(log)}
            task["fault"] = fault if place == rank else ""
            process = self._context.Process(target=runpy.run_path, args=(str(FORKED), task, "<forked>"))
            process.start()
            started.append(process)
        return Command(started, log)

    def run(self, command: str, *words: str, processes: int = 1, **environment: str) -> str:
        """Runs a command to its good end; its output."""
        running = self.start(command, *words, processes=processes, **environment)
        assert running.wait() == [0] * processes, running.log[-4000:]
        return running.log

    def fails(self, command: str, *words: str, fault: str = "", status: int = 1, **options: int) -> str:
        """Runs a command that must end with ``status`` in every process; its output."""
        running = self.start(command, *words, fault=fault, **options)  # type: ignore[arg-type]
        assert set(running.wait()) == {status}, running.log[-4000:]
        return running.log


@pytest.fixture(scope="session")
def commands(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    """Starts commands on the tiny scenes, painted before, with a network of seconds."""
    prepared_data(tiny_run(cache, cache).plan("compare=[]").data)
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(("SLURM_", "SUBMITIT_"))]:
            patch.delenv(name)
        yield Commands(tmp_path_factory.mktemp("logs"), [*QUIET[:2], f"data.source.cache_dir={cache}", *SMALL])


@pytest.fixture(scope="session")
def undisturbed(commands: Commands, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs_dir of a run of one process that nothing happened to."""
    runs = tmp_path_factory.mktemp("undisturbed")
    commands.run("train", *BRIEF, f"runs_dir={runs}")
    return runs
