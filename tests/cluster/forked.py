"""What a forked process of these tests does: one command of the suite, with a fault where a test wants one.

Run by ``conftest.Commands`` in a process that has everything imported, with these names set beforehand: ``command``,
``words`` of the command line, ``environment``, ``fault`` ("<place> <count> <what>", see ``arm``) and ``log``, a file
for all output.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import runpy
import signal
import sys
import zipfile
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from panoptic_occ.evaluation.evaluator import Evaluation
from panoptic_occ.network.panoptic_fpn import PanopticFPN


def arm(fault: str) -> None:
    """Lets the fault happen at the ``count``-th visit of its place, counted from 1.

    Places: ``base`` and ``occlusion`` (a training step of that stage), ``image`` (an image of an evaluation), ``half``
    (in the middle of writing a checkpoint), ``archive`` (the same for stored predictions), and the name of a file (its
    content is complete, but not its name).  What: a signal, ``fill=FOLDER``, ``worker`` (a data worker is killed),
    ``memory`` (more is taken than there is), ``nan``.
    """
    place, count, what = fault.split()
    visits = itertools.count(1)

    def strike() -> bool:
        if next(visits) != int(count):
            return False
        if what.startswith("SIG"):
            os.kill(os.getpid(), signal.Signals[what])
        elif what.startswith("fill="):
            fill(Path(what.removeprefix("fill=")))
        elif what == "memory":
            torch.empty(1 << 50)
        elif what == "worker":
            victim = multiprocessing.active_children()[0]
            victim.kill()
            victim.join()
        return True

    if place in ("base", "occlusion"):
        losses = getattr(PanopticFPN, f"{place}_losses")

        def struck(*args: Any) -> dict[str, torch.Tensor]:
            spoil = strike() and what == "nan"
            return {name: loss * float("nan") if spoil else loss for name, loss in losses(*args).items()}

        setattr(PanopticFPN, f"{place}_losses", struck)
    elif place == "half":
        torch.save = halved(torch.save, strike)
    elif place == "archive":
        zipfile.ZipFile.writestr = before(zipfile.ZipFile.writestr, strike)  # type: ignore[method-assign]
    elif place == "image":
        Evaluation.update = before(Evaluation.update, strike)  # type: ignore[method-assign]
    else:
        replace = os.replace

        def named(source: Any, target: Any) -> None:
            if Path(target).name == place:
                strike()
            replace(source, target)

        os.replace = named  # type: ignore[assignment]


def before(function: Callable[..., Any], strike: Callable[[], object]) -> Callable[..., Any]:
    def struck(*args: Any, **kwargs: Any) -> Any:
        strike()
        return function(*args, **kwargs)

    return struck


def halved(save: Callable[..., Any], strike: Callable[[], object]) -> Callable[..., None]:
    def struck(value: Any, path: Path) -> None:
        save(value, path)
        content = Path(path).read_bytes()
        Path(path).write_bytes(content[: len(content) // 2])
        strike()
        Path(path).write_bytes(content)

    return struck


def fill(folder: Path) -> None:
    """Leaves no byte free on the disk of ``folder``."""
    with open(folder / "filler", "ab", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue


def main(command: str, words: list[str], environment: dict[str, str], fault: str, log: str) -> None:
    """Runs the command, or the script, as if it had been started from a shell."""
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(output, stream)
    os.environ.update(environment)
    torch.set_num_threads(1)  # a forked process has none of its parent's threads
    multiprocessing.set_start_method("fork", force=True)  # else data workers start as slowly as their parent did not
    sys.argv = [command, *words]
    if fault:
        arm(fault)
    if command.endswith(".py"):
        runpy.run_path(command, run_name="__main__")
    else:
        import_module(f"panoptic_occ.{command}").main()


if __name__ == "<forked>":
    main(**{name: globals()[name] for name in ("command", "words", "environment", "fault", "log")})
