"""The glue between Hydra and the commands ``python -m panoptic_occ.<name> key=value ...``.

Nothing heavy is imported before the configuration is composed, so that help and typos answer at once.
"""

from __future__ import annotations

import argparse
import functools
import logging
import os
import re
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from panoptic_occ.common.errors import ConfigError
from panoptic_occ.common.faults import clear_message
from panoptic_occ.common.terminal import PrintableFormatter, printable
from panoptic_occ.config.compose import finish
from panoptic_occ.config.files import CONFIG_NAME, conf_dir, explain, group_choices

if TYPE_CHECKING:
    from hydra.conf import HydraConf
    from omegaconf import DictConfig

    from panoptic_occ.runs.plan import RunPlan

Run = Callable[["RunPlan"], float | None]
"""Runs a command; the number that a sweep compares and a sweeper maximises, if the command has one."""

FULL_ERROR = "HYDRA_FULL_ERROR"
KEY = re.compile(r"^(\w+): (.+?) +# ((?:[a-z]+(?:, )?)+: )?(.+)$", re.MULTILINE)
"""A key of conf/config.yaml, its value, the commands that read it, and its meaning."""
INTERRUPTED = 130
"""Exit status after Ctrl-C, as a shell has it."""


def command(
    name: str, doc: str, examples: Mapping[str, str], groups: Collection[str] = ()
) -> Callable[[Run], Callable[[], None]]:
    """Makes ``run(plan)`` the command ``python -m panoptic_occ.<name>``.

    ``doc``: sentences for the help.  ``examples``: arguments, each with what they do.  ``groups``: that it reads, all
    by default.  Errors that the suite or Hydra raise on purpose become one message on stderr and exit status 1, unless
    HYDRA_FULL_ERROR=1 or debug=true.
    """

    def decorate(run: Run) -> Callable[[], None]:
        @functools.wraps(run)
        def main() -> None:
            flags, overrides = _parse(sys.argv[1:])
            if flags.help:
                print_help(name, doc, examples, groups, flags.config_dir)
                return
            try:
                sys.argv[1:] = _about_a_run(sys.argv[1:])
                _run_hydra(name, run)
            except KeyboardInterrupt:
                sys.stderr.write("interrupted; what was written before is whole\n")
                sys.exit(INTERRUPTED)
            except Exception as error:
                message = _message(error, overrides, flags.config_dir)
                if message is None or os.environ.get(FULL_ERROR) == "1" or "debug=true" in overrides:
                    raise
                sys.exit(printable(f"error: {message}"))

        return main

    return decorate


def _message(error: Exception, overrides: list[str], config_dir: Path | None) -> str | None:
    """One clear message for an error that was raised on purpose or by the machine; None for a fault of ours."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    if isinstance(error, HydraException | OmegaConfBaseException):
        return str(explain(error, overrides, config_dir))
    return clear_message(error)


def _parse(arguments: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """The flags that we read ourselves, and the overrides; Hydra parses all of it again."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--help", "-h", action="store_true")
    parser.add_argument("--config-dir", "-cd", type=Path)
    flags, rest = parser.parse_known_args(arguments)
    return flags, [argument for argument in rest if not argument.startswith("-")]


def _run_hydra(name: str, run: Run) -> None:
    """Composes the configuration and runs the job, or every job of a sweep; errors come out as exceptions."""
    import hydra
    from omegaconf import OmegaConf

    from panoptic_occ.commands.sweeps import new_id, sweep_table

    OmegaConf.register_new_resolver("sweep_id", new_id, use_cache=True, replace=True)
    failures: list[Exception] = []
    users_choice = os.environ.get(FULL_ERROR)

    def job(config: DictConfig) -> float | None:
        from hydra.core.hydra_config import HydraConfig
        from hydra.types import RunMode

        settings = HydraConfig.get()
        with _environment(FULL_ERROR, users_choice):
            if settings.mode == RunMode.MULTIRUN:
                return _run_in_sweep(run, config, settings, debug=users_choice == "1" or bool(config.debug))
            try:
                return run(_plan(config, settings))
            except Exception as error:
                failures.append(error)
                return None

    job.__module__ = f"panoptic_occ.{name}"  # Hydra names the job after it
    # Otherwise Hydra would print the error in its own words and exit.
    with _environment(FULL_ERROR, "1"), sweep_table():
        hydra.main(config_path=str(conf_dir()), config_name=CONFIG_NAME, version_base="1.3")(job)()
    if failures:
        raise failures[0]


def _run_in_sweep(run: Run, config: DictConfig, settings: HydraConf, debug: bool) -> float | None:
    """Runs one job of a sweep; its error is in its record, and the other jobs go on."""
    from panoptic_occ.commands.sweeps import note, recorded_job

    score = None
    words = list(settings.overrides.task)
    with recorded_job(Path(settings.runtime.output_dir), settings.job.num, words, raises=debug):
        plan = _plan(config, settings)
        _check_processes(plan.trainer.settings, settings.launcher)
        score = run(plan)
        if not plan.debugging:  # a try has no result
            note(score=score)
    return score


def _plan(config: DictConfig, settings: HydraConf) -> RunPlan:
    """The plan of the job that Hydra has composed ``config`` for."""
    words = [word for word in settings.overrides.task if not word.startswith("hydra")]
    if config.run is None:
        finish(config, settings.runtime.choices, words)
    from panoptic_occ.runs.build import plan_of_run, run_plan  # here: a wrong word need not wait for torch

    if config.run is None:
        return run_plan(config, words)
    return plan_of_run(Path(str(config.run)), [word.removeprefix("++") for word in words], config.trusted)


def _about_a_run(arguments: list[str]) -> list[str]:
    """The arguments of a command as Hydra takes them.

    With ``run=`` a word may name a setting that only the configuration of the run has; Hydra, which reads the words
    before the run is opened, adds it then.  Whether the run has it is checked with the run (``config.of_run``).
    """
    if not any(word.startswith("run=") and word != "run=null" for word in arguments):
        return arguments
    settings = re.compile(r"^(?!hydra)\w+\.[\w.]+=")
    return [f"++{word}" if settings.match(word) else word for word in arguments]


def _check_processes(trainer: Mapping[str, Any], launcher: DictConfig) -> None:
    """Several processes a run need a launcher that starts them: by itself, Lightning would repeat the whole sweep."""
    devices, strategy = trainer["devices"], str(trainer.get("strategy"))
    count = len(devices) if isinstance(devices, list) else devices
    if launcher._target_.endswith(".SlurmLauncher"):
        if launcher.tasks_per_node != count:
            raise ConfigError(
                f"hydra.launcher.tasks_per_node={launcher.tasks_per_node} with trainer.devices={devices}: SLURM must "
                f"start one process for each device; set both to the same number"
            )
    elif count not in (0, 1, "auto", "1") or strategy.startswith(("ddp", "fsdp", "deepspeed")):
        raise ConfigError(
            f"trainer.devices={devices}, trainer.strategy={strategy} with --multirun: every process would run the "
            "whole sweep; use trainer.devices=1 trainer.strategy=auto, a launcher that starts the processes "
            "(hydra/launcher=slurm_4gpu), or a loop in the shell"
        )


@contextmanager
def _environment(name: str, value: str | None) -> Iterator[None]:
    """An environment variable set (None: unset) for a while."""
    before = os.environ.get(name)
    try:
        _set_environment(name, value)
        yield
    finally:
        _set_environment(name, before)


def _set_environment(name: str, value: str | None) -> None:
    if value is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = value


def log_handler() -> logging.Handler:
    """Log lines on stderr: coloured on a terminal, plain lines with the time in a file."""
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.logging import RichHandler

        rich = RichHandler(console=Console(stderr=True), show_path=False, log_time_format="[%X]")
        rich.setFormatter(PrintableFormatter())
        return rich
    handler = logging.StreamHandler()
    handler.setFormatter(PrintableFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    return handler


def print_help(
    name: str, doc: str, examples: Mapping[str, str], groups: Collection[str] = (), config_dir: Path | None = None
) -> None:
    """Prints usage, the command's own keys, those that every command has, groups with their choices, and examples.

    ``groups``: those that the command reads, all by default.
    """
    from omegaconf import OmegaConf
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    file = conf_dir() / f"{CONFIG_NAME}.yaml"
    defaults = {group: choice for entry in OmegaConf.load(file).defaults[1:] for group, choice in entry.items()}
    choices_of = Table.grid(padding=(0, 2))
    for group, choices in group_choices(config_dir).items():
        if not groups or group in groups:
            marked = [f"[bold]{escape(c)}*[/bold]" if defaults.get(group) == c else escape(c) for c in choices]
            choices_of.add_row(f"  {group}", ", ".join(marked))
    own, common = Table.grid(padding=(0, 2)), Table.grid(padding=(0, 2))
    for key, value, readers, meaning in KEY.findall(file.read_text(encoding="utf-8")):
        if not readers or name in readers.removesuffix(": ").split(", "):
            (own if readers else common).add_row(f"  {key}", escape(value), escape(meaning))

    console = Console(highlight=False)
    start = f"panoptic-occ {name}"
    console.print(f"[bold]{start}[/bold] \\[key=value ...] \\[group=choice ...] \\[flags]\n\n{escape(doc)}\n")
    console.print(f"[bold]Keys of {name}[/bold]", own, "", sep="\n")
    console.print("[bold]Keys of every command[/bold]", common, "", sep="\n")
    heading = "[bold]Groups[/bold]  (* marks the default; keys inside a group are group.key=value)"
    console.print(heading, choices_of, "", sep="\n")
    console.print(
        "[bold]Flags[/bold]\n"
        "  --cfg job         print the composed configuration, which has every key, and stop\n"
        "  --multirun, -m    run every combination of values given with commas (seed=0,1,2)\n"
        "  --config-dir DIR  add your own configuration files, for example DIR/method/mine.yaml\n"
        "  --hydra-help      every other flag\n",
        soft_wrap=True,
    )
    console.print("[bold]Examples[/bold]")
    for arguments, meaning in examples.items():
        console.print(f"  # {escape(meaning)}\n  {escape(f'{start} {arguments}'.rstrip())}", soft_wrap=True)
