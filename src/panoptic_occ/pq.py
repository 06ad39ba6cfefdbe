"""Panoptic quality (PQ, SQ, RQ of all classes, things, stuff and each class) of a result in the COCO panoptic format:
one PNG of segment ids per image, and a JSON that lists them.  The numbers are those of the official evaluation.

  python -m panoptic_occ.pq --gt_json_file panoptic_val2017.json --pred_json_file result.json --json pq.json

Every image of the ground truth needs a prediction with its image_id.  If one has none, predictions are matched by
file name instead, folders and endings aside (cat.jpg and maps/cat.png): `predict`, for one, numbers images itself.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from panoptic_occ.common.errors import ConfigError, DataError
from panoptic_occ.common.faults import clear_message
from panoptic_occ.common.files import read_json, write_json
from panoptic_occ.common.terminal import printable
from panoptic_occ.metrics.pq.files import panoptic_quality_of_files
from panoptic_occ.metrics.pq.scores import pq_table


def main(arguments: Sequence[str] | None = None, prog: str = "python -m panoptic_occ.pq") -> int:
    """Runs the command, which its messages call ``prog``; returns its exit status: 0, 1 after an error or 130 after
    Ctrl-C (one line on stderr)."""
    args = _parser(prog).parse_args(arguments)
    try:
        _run(args)
    except Exception as error:
        if (message := clear_message(error)) is None:
            raise
        sys.stderr.write(printable(f"error: {message}\n"))
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return 130
    return 0


def _run(args: argparse.Namespace) -> None:
    if args.json is not None:
        _check_result(args.json)
    files = args.gt_json_file, args.pred_json_file, args.gt_folder, args.pred_folder
    done = panoptic_quality_of_files(*files, args.processes)
    if done.by_name:
        sys.stderr.write(f"note: {done.by_name} predictions were matched by file name, as their image_ids differ\n")
    if done.wrong_areas:
        warning = (
            f"warning: {done.wrong_areas} ground-truth segments in {done.wrong_images} images have another area in the "
            f"JSON than pixels in the PNG (first: {done.example}); PQ trusts the JSON, as the official evaluation "
            "does\n"
        )
        sys.stderr.write(printable(warning))
    if done.void_images:
        sys.stderr.write(
            f"warning: the ground truth of {done.void_images} images lists a segment of id 0, which is VOID: PQ is "
            "that of the official evaluation, but means nothing; renumber the segment, or remove it\n"
        )
    if done.repeated_images:
        sys.stderr.write(
            f"warning: the ground truth of {done.repeated_images} images lists an id more than once (first: "
            f"{done.repeated}); the last entry counts, as in the official evaluation; give every segment its own id\n"
        )
    sys.stdout.write(pq_table(done.result))
    if args.json is not None:
        write_json(args.json, done.result.as_dict(), indent=2)


def _check_result(file: Path) -> None:
    """ConfigError unless ``file`` is free, or a result of this command, which a new one may replace."""
    if file.is_dir():
        raise ConfigError(f"{file}: --json is a folder; name a file in it, such as {file / 'pq.json'}")
    if os.path.lexists(file):
        with suppress(DataError):
            content = read_json(file)
            if isinstance(content, dict) and content.keys() == {"All", "Things", "Stuff", "per_class"}:
                return
        raise ConfigError(f"{file}: --json names a file that is no result of pq; nothing replaces it: choose another")


def _parser(prog: str) -> argparse.ArgumentParser:
    text = (__doc__ or "").replace("python -m panoptic_occ.pq", prog)
    parser = argparse.ArgumentParser(prog, description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gt_json_file", type=Path, required=True, metavar="X.json", help="JSON of the ground truth")
    parser.add_argument("--pred_json_file", type=Path, required=True, metavar="Y.json", help="JSON of the predictions")
    parser.add_argument("--gt_folder", type=Path, metavar="X", help="PNGs of the ground truth; default: X for X.json")
    parser.add_argument("--pred_folder", type=Path, metavar="Y", help="PNGs of the predictions; default: Y for Y.json")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result there too, as fractions of one")
    parser.add_argument("--processes", type=_positive, metavar="N", help="processes that count; default: all cores")
    return parser


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number of processes (1 or more)")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
