"""The source of Cityscapes: converts the files as distributed on first use."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Annotated, get_args

from panoptic_occ.common.errors import DataError
from panoptic_occ.common.kinds import Scope
from panoptic_occ.data.cityscapes.convert import Files, convert
from panoptic_occ.data.cityscapes.labels import CATEGORIES
from panoptic_occ.data.coco.layout import Layout
from panoptic_occ.data.coco.panoptic_instances import InstanceTruth
from panoptic_occ.data.coco.writer import Part, write_splits
from panoptic_occ.data.source import Source, Split, find_root
from panoptic_occ.ops.segment_matching import SegmentMatch

VERSION = 1
"""Raise it when a change of the code changes the converted files; it is part of the folder's name."""

ROOT_VARIABLE = "PANOPTIC_OCC_CITYSCAPES"
ENDINGS = {"leftImg8bit": ("_leftImg8bit.png",), "gtFine": ("_gtFine_polygons.json", "_gtFine_instanceIds.png")}
"""Top folder -> what the names of the files of an image end with."""
OF_MACOS = "._"
"""What the names of the files begin with that macOS puts beside others on foreign disks and into archives."""


class CityscapesSource(Source):
    """Cityscapes with fine annotations: ``leftImg8bit/{train,val}/<city>/`` and ``gtFine/{train,val}/<city>/``.

    ``root``: the folder that holds both, or None to take the environment variable ``PANOPTIC_OCC_CITYSCAPES``.  The
    annotations are converted once, into a folder below ``cache_dir`` that is named after the files they come from; the
    images stay where they are.  The other settings are those of ``Source``.

    Instances are full polygons, and a later polygon hides an earlier one, so the later of two lies in front wherever
    one of them shows at a common pixel.  Two whose common pixels are all hidden by a third have no order, as on COCO.
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
        super().__init__(name, cache_dir, inst_gt=inst_gt, match=match)
        self._given_root = root
        self.processes = processes

    def prepare(self) -> None:
        """Converts what is missing.  DataError names the first file that is wrong."""
        counts = {split: len(stems) for split, stems in self._stems.items()}
        work = partial(_convert, self.root, self.folder, self._stems)
        write_splits(self.folder, counts, work, CATEGORIES, self.processes, "converting Cityscapes")

    def layout(self, split: Split) -> Layout:
        """The converted annotations of a split, and its images where they were."""
        return replace(Layout.of(self.folder, split), images=self.root / "leftImg8bit" / split)

    @cached_property
    def root(self) -> Path:
        """The folder of the files as distributed."""
        return find_root(self._given_root, "Cityscapes", ROOT_VARIABLE)

    @cached_property
    def folder(self) -> Path:
        """Where the converted annotations of these files are: the name holds names, sizes and times of all of them."""
        content: list[object] = [VERSION]
        for split, stems in self._stems.items():
            for stem in stems:
                files = Files.of(self.root, split, stem)
                states = [path.stat() for path in (files.polygons, files.instance_ids)]
                content.append([split, stem, *((state.st_size, state.st_mtime_ns) for state in states)])
        return self.cache_dir / hashlib.sha256(json.dumps(content).encode()).hexdigest()[:12]

    @cached_property
    def _stems(self) -> dict[str, list[str]]:
        return {split: _stems(self.root, split) for split in get_args(Split)}


def _convert(root: Path, folder: Path, stems: Mapping[str, Sequence[str]], split: str, number: int) -> Part:
    return convert(Files.of(root, split, stems[split][number - 1]), Layout.of(folder, split), number)


def _stems(root: Path, split: str) -> list[str]:
    """The stems (``aachen/aachen_000000_000019``) of the images of a split in order of their names.

    DataError for a missing or empty folder and for an image that lacks one of its three files.
    """
    stems_of: dict[str, set[str]] = {}  # by the pattern of a file's path
    for top, endings in ENDINGS.items():
        folder = root / top / split
        paths = (path for path in folder.glob("*/*") if not path.name.startswith(OF_MACOS))
        files = [path.relative_to(folder).as_posix() for path in paths]
        for ending in endings:
            stems_of[f"{top}/{split}/{{}}{ending}"] = {n.removesuffix(ending) for n in files if n.endswith(ending)}
        if not any(n.endswith(endings) for n in files):
            state = "holds no <city>/*" + endings[0] if folder.is_dir() else "the folder does not exist"
            raise DataError(
                f"{folder}: {state}; {root} must hold leftImg8bit/{split} and gtFine/{split}, as "
                "leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip of Cityscapes unpack"
            )
    stems = set.union(*stems_of.values())
    missing = sorted(pattern.format(stem) for pattern, present in stems_of.items() for stem in stems - present)
    if missing:
        more = f", nor do {len(missing) - 1} other files" if len(missing) > 1 else ""
        raise DataError(
            f"{root / missing[0]}: the file does not exist{more}; every image needs its *_leftImg8bit.png, "
            "*_gtFine_polygons.json and *_gtFine_instanceIds.png: unpack the archives again or remove the others of it"
        )
    return sorted(stems)
