"""Writes a data set in the official COCO panoptic layout: image by image, in parallel, going on where it stopped."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from filelock import SoftFileLease

from panoptic_occ.common.files import cannot_write, read_json, write_json
from panoptic_occ.common.parallel import ordered_map
from panoptic_occ.data.coco.annotations import Layout
from panoptic_occ.structures.categories import Categories

Part = dict[str, Any]
"""What the annotation files say about one image: ``image`` and ``panoptic`` (an entry each) and ``instances`` (a list
of entries, whose ids are given when all images are merged)."""

PARTS = ".parts"
LEASE = 60.0  # seconds without a sign of life after which one who writes on another machine counts as dead


def write_splits(
    root: Path,
    counts: Mapping[str, int],
    make: Callable[[str, int], Part],
    categories: Categories,
    processes: int | None = None,
    title: str = "",
) -> None:
    """Writes ``counts[split]`` images of every split below ``root``, in parallel, with progress.

    ``make(split, number)`` (picklable) writes the files of an image, numbered from 1, each whole or not at all, and
    returns its annotations.  An image that is already there is kept, so an interrupted run continues where it stopped.
    The annotation files come last: without them a split counts as missing.  Of several processes that come together
    one writes and the others wait for it.
    """
    if not _missing(root, counts):
        return
    with _one_at_a_time(root):
        _write(root, counts, make, categories, processes, title)


def _missing(root: Path, counts: Mapping[str, int]) -> list[str]:
    """The splits without their annotation files, which come last."""
    layouts = {split: Layout.of(root, split) for split in counts}
    return [s for s, paths in layouts.items() if not (paths.panoptic_json.exists() and paths.instances_json.exists())]


@contextmanager
def _one_at_a_time(root: Path) -> Iterator[None]:
    """All jobs of a sweep come here together: one of them writes, the others wait."""
    lock = SoftFileLease(root.with_name(f".{root.name}.lock"), lease_duration=LEASE)
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        held = lock.acquire()
    except OSError as error:
        raise cannot_write(Path(lock.lock_file), error) from None
    with held:
        yield


def _write(
    root: Path,
    counts: Mapping[str, int],
    make: Callable[[str, int], Part],
    categories: Categories,
    processes: int | None,
    title: str,
) -> None:
    missing = _missing(root, counts)
    wanted = [(split, number) for split in missing for number in range(1, counts[split] + 1)]
    parts = ordered_map(partial(_part, root, make), wanted, len(wanted), processes, title)
    for split in missing:
        _write_annotations(Layout.of(root, split), list(islice(parts, counts[split])), categories)
    shutil.rmtree(root / PARTS, ignore_errors=True)


def _part(root: Path, make: Callable[[str, int], Part], image: tuple[str, int]) -> Part:
    """The annotations of one image, from the interrupted run if it had got so far."""
    split, number = image
    path = root / PARTS / f"{split}_{number:06d}.json"
    if path.exists():
        found: Part = read_json(path)
        return found
    part = make(split, number)
    write_json(path, part)
    return part


def _write_annotations(layout: Layout, parts: list[Part], categories: Categories) -> None:
    listed = categories.to_json()
    annotations = [annotation for part in parts for annotation in part["instances"]]
    for number, annotation in enumerate(annotations, start=1):
        annotation["id"] = number
    images = [part["image"] for part in parts]
    things = [c for c in listed if c["isthing"]]
    write_json(layout.instances_json, {"images": images, "annotations": annotations, "categories": things})
    panoptic = [part["panoptic"] for part in parts]
    write_json(layout.panoptic_json, {"images": images, "annotations": panoptic, "categories": listed})
