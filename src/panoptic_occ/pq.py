"""Panoptic quality of a result on disk: the arguments and the table of the official COCO evaluation.

Example: ``python -m panoptic_occ.pq --gt_json_file panoptic_val2017.json --pred_json_file result.json --json pq.json``
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from panoptic_occ.common.errors import ConfigError, PanopticOccError
from panoptic_occ.common.files import write_json
from panoptic_occ.common.parallel import available_cores
from panoptic_occ.common.tables import to_text
from panoptic_occ.metrics.pq.files import AreaCheck, panoptic_quality_of_files
from panoptic_occ.metrics.pq.scores import PQResult
from panoptic_occ.metrics.tables import pq_table


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status: 0, 1 after an error or 130 after Ctrl-C (one line on stderr)."""
    args = _parser().parse_args(arguments)
    try:
        _run(args)
    except PanopticOccError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return 130
    return 0


def _run(args: argparse.Namespace) -> None:
    if args.json is not None and args.json.is_dir():
        raise ConfigError(f"{args.json}: --json is a folder; name a file in it, such as {args.json / 'pq.json'}")
    result, check = _evaluate(args)
    if check.segments:
        sys.stderr.write(
            f"warning: {check.segments} ground-truth segments in {check.images} images have another area in the JSON "
            f"than pixels in the PNG (first: {check.first}); PQ trusts the JSON, as the official evaluation does\n"
        )
    sys.stdout.write(to_text(pq_table(result)))
    if args.json is not None:
        write_json(args.json, result.as_dict(), indent=2)


def _evaluate(args: argparse.Namespace) -> tuple[PQResult, AreaCheck]:
    columns = TextColumn("images"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("images", total=None)
        return panoptic_quality_of_files(
            args.gt_json_file,
            args.pred_json_file,
            args.gt_folder,
            args.pred_folder,
            args.processes,
            lambda done, total: progress.update(bar, completed=done, total=total),
        )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m panoptic_occ.pq", description="Panoptic quality of a result in the COCO panoptic format."
    )
    folder = "folder of the %s; default: X for X.json"
    parser.add_argument("--gt_json_file", type=Path, required=True, help="JSON of the ground truth")
    parser.add_argument("--pred_json_file", type=Path, required=True, help="JSON of the predictions")
    parser.add_argument("--gt_folder", type=Path, help=folder % "ground-truth PNGs")
    parser.add_argument("--pred_folder", type=Path, help=folder % "predicted PNGs")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result there too, as fractions")
    parser.add_argument(
        "--processes", type=_positive, default=available_cores(), help="default: all cores (here %(default)s)"
    )
    return parser


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number of processes (1 or more)")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
