"""What every source of data offers: two splits in the official COCO panoptic layout, and a folder for derived files."""

from __future__ import annotations

import logging
import os
from abc import ABC, abstractmethod
from functools import partial
from pathlib import Path
from typing import Literal

from panoptic_occ.common.errors import DataError, check_choice
from panoptic_occ.common.files import check_folder_name, default_cache_dir
from panoptic_occ.data.coco.annotations import read_annotations
from panoptic_occ.data.coco.dataset import CocoPanoptic
from panoptic_occ.data.coco.layout import Layout
from panoptic_occ.data.coco.orientation import Orientation
from panoptic_occ.data.coco.panoptic_instances import InstanceTruth
from panoptic_occ.data.fingerprint import manifest_path, split_fingerprint
from panoptic_occ.data.relations.cache import VERSION, RelationCache
from panoptic_occ.ops.segment_matching import SegmentMatch

log = logging.getLogger(__name__)

Split = Literal["train", "val"]


class Source(ABC):
    """A data set with a training and a validation split.

    ``cache_dir``: where derived files go, by default a folder of its ``name`` below ``PANOPTIC_OCC_CACHE`` or
    ``~/.cache/panoptic_occ``.  ``inst_gt``: what the instances of the training images are, ``match``: how they find
    their segments, and ``skip_empty``: whether training images without an instance are left out, see ``CocoPanoptic``.
    Validation images keep their annotations, where there are any, and the usual rule, and none is left out.
    """

    orientation: Orientation = "exif"
    """How its images, and those that its networks segment, are read; without EXIF both ways are one."""

    def __init__(
        self,
        name: str,
        cache_dir: str | Path | None = None,
        *,
        inst_gt: InstanceTruth = "coco",
        match: SegmentMatch = "share",
        skip_empty: bool = False,
    ) -> None:
        check_choice("data.source.inst_gt", inst_gt, InstanceTruth)
        check_choice("data.source.match", match, SegmentMatch)
        self.cache_dir = default_cache_dir() if cache_dir is None else Path(cache_dir).expanduser()
        self.name = check_folder_name("data.source.name", name, self.cache_dir)
        if cache_dir is None:
            self.cache_dir /= name
        self.inst_gt: InstanceTruth = inst_gt
        self.match: SegmentMatch = match
        self.skip_empty = skip_empty

    @abstractmethod
    def prepare(self) -> None:
        """Makes the data available (generates or verifies it); called once, by one process, before ``split``."""

    @abstractmethod
    def layout(self, split: Split) -> Layout:
        """Where the files of a split lie."""

    def split(self, split: Split) -> CocoPanoptic:
        """The images of a split, with cached relations where there are any."""
        layout = self.layout(split)
        read = partial(CocoPanoptic, layout, manifest=self.manifest(layout))
        if split == "train":
            data = read(skip_empty=self.skip_empty, inst_gt=self.inst_gt, match=self.match)
        else:
            alone = self.inst_gt == "panoptic" and not layout.instances_json.exists()
            data = read(inst_gt="panoptic" if alone else "coco")
        # the cache is always of the annotated instances
        if data.inst_gt == "coco" and (path := self.relations_path(data)).is_file():
            try:
                data.relations = RelationCache.read(path, data.annotation_fingerprint)
            except DataError as error:
                log.warning("%s; relations are computed while loading", error)
        return data

    def fingerprint(self) -> str | None:
        """SHA-256 (hex) of all files of the training split; None of a source that ties nothing to them."""
        layout = self.layout("train")
        return split_fingerprint(layout, lambda: read_annotations(layout).records, self.manifest(layout))

    def manifest(self, layout: Layout) -> Path:
        """Where the digests of the files of a split are kept."""
        return manifest_path(self.cache_dir, layout)

    def relations_path(self, data: CocoPanoptic) -> Path:
        """The relation cache of a split, named after its annotations: two copies of a data set never fight."""
        rule = "" if data.match == "share" else f"_{data.match}"
        name = f"relations{VERSION}_{data.layout.images.name}_{data.annotation_fingerprint[:12]}{rule}.safetensors"
        return self.cache_dir / name


def find_root(root: str | Path | None, title: str, variable: str) -> Path:
    """The root folder of a data set, from ``root`` or the environment; DataError says which folder was looked for."""
    folder = root or os.environ.get(variable)
    ways = f"set data.root=FOLDER on the command line or the environment variable {variable}"
    if not folder:
        raise DataError(f"{title}: no root folder was given; {ways}")
    path = Path(folder).expanduser()
    if not path.is_dir():
        origin = "data.root" if root else variable
        raise DataError(f"{path}: the root folder of {title} (from {origin}) does not exist; {ways}")
    return path
