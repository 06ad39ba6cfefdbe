"""``panoptic-occ train|evaluate|predict|prepare|pq ...``: the commands under one name."""

from __future__ import annotations

import os
import sys
from importlib import import_module

PROGRAM = "panoptic-occ"
COMMANDS = {
    "train": "trains the stages that are missing and evaluates the run",
    "evaluate": "evaluates a run with other thresholds, orders or data",
    "predict": "writes panoptic maps and overlays of any images",
    "prepare": "makes a data set ready and shows the statistics of its occlusions",
    "pq": "scores a result in the official format",
}
USAGE = f"usage: {PROGRAM} COMMAND [key=value ...]\n\n{{}}\n\n`{PROGRAM} COMMAND --help` lists what a command takes.\n"
COMPLETION = "-sc"  # Hydra's flag for the completion of a shell


def main() -> int | None:
    """Runs the command that the first argument names, with the others; returns its exit status."""
    name, arguments = (sys.argv[1], sys.argv[2:]) if len(sys.argv) > 1 else ("", [])
    if name == COMPLETION:
        return _complete(arguments)
    if name not in COMMANDS:
        listed = "\n".join(f"  {command:10}{does}" for command, does in COMMANDS.items())
        asked = name in ("-h", "--help")
        (sys.stdout if asked else sys.stderr).write(USAGE.format(listed))
        if name and not asked:
            from panoptic_occ.common.errors import did_you_mean

            sys.stderr.write(f"error: there is no command '{name}'; {did_you_mean(name, COMMANDS)}\n")
        return 0 if asked else 2
    return _run(name, arguments)


def _run(name: str, arguments: list[str]) -> int | None:
    if name == "pq":
        from panoptic_occ import pq

        return pq.main(arguments, prog=f"{PROGRAM} pq")
    sys.argv = [PROGRAM, *arguments]
    status: int | None = import_module(f"panoptic_occ.{name}").main()
    return status


def _complete(arguments: list[str]) -> int | None:
    """Answers a shell: Hydra completes the words behind the name of a command, which it does not know.

    The line and the place of the cursor are in COMP_LINE and COMP_POINT.
    """
    line = os.environ.get("COMP_LINE", "")
    program, _, words = line.partition(" ")
    name, space, rest = words.lstrip().partition(" ")
    if arguments and arguments[0].startswith("query") and (not space or name not in COMMANDS):
        sys.stdout.write("\n".join(command for command in COMMANDS if command.startswith(name)) + "\n")
        return 0
    if space:
        os.environ["COMP_LINE"] = f"{program} {rest}"
        os.environ["COMP_POINT"] = str(len(program) + 1 + len(rest))
    return _run(name if name in COMMANDS and name != "pq" else "train", [COMPLETION, *arguments])
