"""Writes a data set in the official COCO panoptic layout: image by image, in parallel, going on where it stopped."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Mapping
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from pycocotools import mask as rle_tools

from panoptic_occ.common.errors import DataError
from panoptic_occ.common.files import MADE, read_json, write_json, write_text
from panoptic_occ.common.locking import work_lock
from panoptic_occ.common.parallel import ordered_map
from panoptic_occ.data.coco.layout import Layout
from panoptic_occ.structures.categories import Categories

log = logging.getLogger(__name__)

Part = dict[str, Any]
"""What the annotation files say about one image: ``image`` and ``panoptic`` (an entry each) and ``instances`` (a list
of entries, whose ids are given when all images are merged)."""

KINDS = [dict, dict, list]  # of these three
PARTS = ".parts"


def write_splits(
    root: Path,
    counts: Mapping[str, int],
    make: Callable[[str, int], Part],
    categories: Categories,
    processes: int | None,
    title: str,
) -> None:
    """Writes ``counts[split]`` images of every split below ``root``, in parallel, with progress.

    ``make(split, number)`` (picklable) writes the files of an image, numbered from 1, each whole or not at all, and
    returns its annotations.  An image that is already there is kept, so an interrupted run continues where it stopped.
    The annotation files come last: without them a split counts as missing.  Of several processes that come together
    one writes and the others wait for it.
    """
    if not _missing_splits(root, counts):
        return
    with work_lock(root, title, busy="wait", alone=True):
        write_text(root / MADE, "Made by panoptic_occ; whoever needs this folder again makes it again.\n")
        splits = _missing_splits(root, counts)
        images = [(split, number) for split in splits for number in range(1, counts[split] + 1)]
        parts = ordered_map(partial(_part, root, make), images, len(images), processes, title)
        for split in splits:
            _write_annotations(Layout.of(root, split), list(islice(parts, counts[split])), categories)
        shutil.rmtree(root / PARTS, ignore_errors=True)


def mask_entry(mask: UInt8[np.ndarray, "h w"]) -> dict[str, Any]:
    """Area, box and compressed RLE of a full mask, as the instances JSON has them."""
    rle = rle_tools.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {
        "area": int(rle_tools.area(rle)),
        "bbox": [int(part) for part in rle_tools.toBbox(rle)],
        "segmentation": {"size": list(mask.shape), "counts": rle["counts"].decode("ascii")},
    }


def _missing_splits(root: Path, counts: Mapping[str, int]) -> list[str]:
    """The splits without their annotation files, which come last, or with files that are cut off or gone."""
    return [split for split, count in counts.items() if not _is_whole(Layout.of(root, split), count)]


def _is_whole(layout: Layout, count: int) -> bool:
    """Whether both annotation files of a split have an end and all ``count`` maps, and images if they lie here, are
    there; what is damaged inside is found when it is read.  DataError for an annotation file that is no file."""
    files = (layout.panoptic_json, layout.instances_json)
    if strange := next((file for file in files if file.exists() and not file.is_file()), None):
        raise DataError(f"{strange}: is a folder, a pipe or a device, not a file; move it away, and it is made again")
    if not all(file.exists() for file in files):
        return False
    folders = [folder for folder in (layout.panoptic, layout.images) if folder.is_dir()]
    sizes = {folder: [file.stat().st_size for file in folder.rglob("*.*")] for folder in folders}
    whole = all(_end(file) == b"}\n" for file in files) and layout.panoptic in folders
    if not whole or any(len(some) < count or not all(some) for some in sizes.values()):
        log.warning("%s: files below it are damaged or gone; they are made again", layout.panoptic)
        return False
    return True


def _end(file: Path) -> bytes:
    with open(file, "rb") as content:
        content.seek(max(file.stat().st_size - 2, 0))
        return content.read()


def _part(root: Path, make: Callable[[str, int], Part], image: tuple[str, int]) -> Part:
    """The annotations of one image, from the interrupted run if it had got so far."""
    split, number = image
    path = root / PARTS / f"{split}_{number:06d}.json"
    if path.exists():
        kept = read_json(path)
        if isinstance(kept, dict) and [type(kept.get(key)) for key in ("image", "panoptic", "instances")] == KINDS:
            return kept
    part = make(split, number)
    write_json(path, part)
    return part


def _write_annotations(layout: Layout, parts: list[Part], categories: Categories) -> None:
    annotations = [annotation for part in parts for annotation in part["instances"]]
    for number, annotation in enumerate(annotations, start=1):
        annotation["id"] = number
    images, panoptic = ([part[key] for part in parts] for key in ("image", "panoptic"))
    entries = categories.to_json()
    things = [entry for entry in entries if entry["isthing"]]
    write_json(layout.instances_json, {"images": images, "annotations": annotations, "categories": things})
    write_json(layout.panoptic_json, {"images": images, "annotations": panoptic, "categories": entries})
