"""The source of Cityscapes: converts the files as distributed on first use."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated

from panoptic_occ.common.errors import DataError
from panoptic_occ.common.kinds import Scope
from panoptic_occ.data.cityscapes.convert import Files, convert
from panoptic_occ.data.cityscapes.labels import CATEGORIES
from panoptic_occ.data.coco.annotations import Layout
from panoptic_occ.data.coco.dataset import CocoPanoptic
from panoptic_occ.data.coco.panoptic_instances import InstanceTruth
from panoptic_occ.data.coco.source import Split, checked_match, checked_truth, default_cache_dir, find_root, load_split
from panoptic_occ.data.coco.writer import Part, write_splits
from panoptic_occ.ops.segment_matching import SegmentMatch

VERSION = 1
"""Raise it when a change of the code changes the converted files; it is part of the folder's name."""

ROOT_VARIABLE = "PANOPTIC_OCC_CITYSCAPES"
SPLITS: tuple[Split, ...] = ("train", "val")
ENDINGS = {"leftImg8bit": ("_leftImg8bit.png",), "gtFine": ("_gtFine_polygons.json", "_gtFine_instanceIds.png")}
"""Top folder -> what the names of the files of an image end with."""


class CityscapesSource:
    """Cityscapes with fine annotations: ``leftImg8bit/{train,val}/<city>/`` and ``gtFine/{train,val}/<city>/``.

    ``root``: the folder that holds both, or None to take the environment variable ``PANOPTIC_OCC_CITYSCAPES``.  The
    annotations are converted once, into a folder below ``cache_dir`` (by default ``PANOPTIC_OCC_CACHE`` or
    ``~/.cache/panoptic_occ``) that is named after the files they come from; the images stay where they are.
    ``inst_gt``: what the instances of the training images are, ``match``: how they find their segments, see
    ``CocoPanoptic``.

    Instances are full polygons, and a later polygon hides an earlier one; so the owner of most common pixels of a pair
    is the later of the two wherever one of them can be seen there.  Where a third object hides all that two have in
    common, the file has an order too, but no pixel shows it: such a pair has none here, as on COCO.
    """

    def __init__(
        self,
        root: Annotated[str | Path | None, Scope.INPUT] = None,
        cache_dir: Annotated[str | Path | None, Scope.MACHINE] = None,
        processes: Annotated[int | None, Scope.MACHINE] = None,
        name: Annotated[str, Scope.LABEL] = "cityscapes",
        inst_gt: InstanceTruth = "coco",
        match: SegmentMatch = "share",
    ) -> None:
        self.name = name
        self.inst_gt, self.match = checked_truth(inst_gt), checked_match(match)
        self.root = root
        self.cache_dir = default_cache_dir() / name if cache_dir is None else Path(cache_dir).expanduser()
        self.processes = processes
        self._ready = False

    def prepare(self) -> None:
        """Converts what is missing; does nothing the second time.  DataError names the first file that is wrong."""
        if self._ready:
            return
        counts = {split: len(stems) for split, stems in self._stems.items()}
        work = _Conversion(self._found_root, self.folder, self._stems)
        write_splits(self.folder, counts, work, CATEGORIES, self.processes, "converting Cityscapes")
        self._ready = True

    def split(self, split: Split) -> CocoPanoptic:
        """The images of a split, with cached relations when `python -m panoptic_occ.prepare` has made them."""
        layout = replace(Layout.of(self.folder, split), images=self._found_root / "leftImg8bit" / split)
        if split == "train":
            return load_split(self, layout, inst_gt=self.inst_gt, match=self.match)
        return load_split(self, layout)

    def fingerprint(self) -> str | None:
        """SHA-256 (hex) of the converted training annotations."""
        return Layout.of(self.folder, "train").fingerprint()

    @cached_property
    def folder(self) -> Path:
        """Where the converted annotations of these files are: the name holds names, sizes and times of all of them."""
        found: list[object] = [VERSION]
        for split, stems in self._stems.items():
            for stem in stems:
                files = Files(self._found_root, split, stem)
                states = [path.stat() for path in (files.polygons, files.instance_ids)]
                found.append([split, stem, *((state.st_size, state.st_mtime_ns) for state in states)])
        return self.cache_dir / hashlib.sha256(json.dumps(found).encode()).hexdigest()[:12]

    @cached_property
    def _found_root(self) -> Path:
        return find_root(self.root, "Cityscapes", ROOT_VARIABLE)

    @cached_property
    def _stems(self) -> dict[str, list[str]]:
        return {split: _images(self._found_root, split) for split in SPLITS}


@dataclass(frozen=True)
class _Conversion:
    """What a worker needs to convert any image."""

    root: Path
    folder: Path
    stems: dict[str, list[str]]

    def __call__(self, split: str, number: int) -> Part:
        files = Files(self.root, split, self.stems[split][number - 1])
        return convert(files, Layout.of(self.folder, split), number)


def _images(root: Path, split: str) -> list[str]:
    """The stems (``aachen/aachen_000000_000019``) of the images of a split in order of their names.

    DataError for a missing or empty folder and for an image that lacks one of its three files.
    """
    found: dict[str, set[str]] = {}
    for top, endings in ENDINGS.items():
        folder = root / top / split
        files = [path.relative_to(folder).as_posix() for path in folder.glob("*/*")]
        for ending in endings:
            found[f"{top}/{split}/{{}}{ending}"] = {n.removesuffix(ending) for n in files if n.endswith(ending)}
        if not any(n.endswith(endings) for n in files):
            state = "holds no <city>/*" + endings[0] if folder.is_dir() else "the folder does not exist"
            raise DataError(
                f"{folder}: {state}; {root} must hold leftImg8bit/{split} and gtFine/{split}, as "
                "leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip of Cityscapes unpack"
            )
    stems = set.union(*found.values())
    missing = sorted(pattern.format(stem) for pattern, have in found.items() for stem in stems - have)
    if missing:
        more = f", nor do {len(missing) - 1} other files" if len(missing) > 1 else ""
        raise DataError(
            f"{root / missing[0]}: the file does not exist{more}; every image needs its *_leftImg8bit.png, "
            "*_gtFine_polygons.json and *_gtFine_instanceIds.png: unpack the archives again or remove the others of it"
        )
    return sorted(stems)
