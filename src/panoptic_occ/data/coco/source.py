"""Where a data set comes from: the interface of a source, and the COCO folders."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Annotated, Literal, Protocol, get_args

from panoptic_occ.common.errors import ConfigError, DataError, check_choice, did_you_mean
from panoptic_occ.common.kinds import Scope
from panoptic_occ.data.coco.annotations import Layout
from panoptic_occ.data.coco.dataset import CocoPanoptic
from panoptic_occ.data.coco.panoptic_instances import INSTANCE_TRUTHS, InstanceTruth
from panoptic_occ.data.relations.cache import RelationCache
from panoptic_occ.ops.segment_matching import SegmentMatch

log = logging.getLogger(__name__)

Split = Literal["train", "val"]
ROOT_VARIABLE = "PANOPTIC_OCC_COCO"
CACHE_VARIABLE = "PANOPTIC_OCC_CACHE"


class Source(Protocol):
    """A data set with a training and a validation split, in the official COCO panoptic layout.

    ``cache_dir`` is where derived files of this source may be written.
    """

    name: str
    cache_dir: Path

    def prepare(self) -> None:
        """Makes the data available (generates or verifies it); called once, by one process, before ``split``."""
        ...

    def split(self, split: Split) -> CocoPanoptic:
        """The images of a split."""
        ...

    def fingerprint(self) -> str | None:
        """SHA-256 (hex) of the training annotations; None where they follow from the settings."""
        ...


class CocoSource:
    """COCO 2017 from a root folder, unpacked as distributed; any data set in the same layout with its own split names.

    ``root``: the folder, or None to take the environment variable ``PANOPTIC_OCC_COCO``.  ``cache_dir``: where derived
    files go, by default below ``PANOPTIC_OCC_CACHE`` or ``~/.cache/panoptic_occ``.  ``skip_empty`` leaves training
    images without a non-crowd instance out (counted); validation images are never left out.  ``inst_gt``: what the
    instances of the training images are, and ``match`` how they find their segments, see ``CocoPanoptic``; validation
    images keep their annotations and the usual rule.
    """

    def __init__(
        self,
        root: Annotated[str | Path | None, Scope.INPUT] = None,
        train_split: str = "train2017",
        val_split: Annotated[str, Scope.INPUT] = "val2017",
        cache_dir: Annotated[str | Path | None, Scope.MACHINE] = None,
        skip_empty: bool = False,
        name: Annotated[str, Scope.LABEL] = "coco",
        inst_gt: InstanceTruth = "coco",
        match: SegmentMatch = "share",
    ) -> None:
        self.name = name
        self.inst_gt, self.match = checked_truth(inst_gt), checked_match(match)
        self.root = root
        self.splits: dict[str, str] = {"train": train_split, "val": val_split}
        self.cache_dir = default_cache_dir() / name if cache_dir is None else Path(cache_dir).expanduser()
        self.skip_empty = skip_empty

    def prepare(self) -> None:
        """Checks that the folders exist; DataError names the first that does not."""
        root = find_root(self.root)
        for split in self.splits.values():
            for folder in (root / "annotations", root / "annotations" / f"panoptic_{split}", root / split):
                if not folder.is_dir():
                    raise DataError(
                        f"{folder}: the folder does not exist; {root} must hold annotations/ (with "
                        f"instances_{split}.json, panoptic_{split}.json and the folder panoptic_{split}/) and {split}/"
                    )

    def split(self, split: Split) -> CocoPanoptic:
        """The images of a split, with cached relations when `python -m panoptic_occ.prepare` has made them."""
        if split not in self.splits:
            raise DataError(f"{self.name}: split '{split}' is unknown; {did_you_mean(split, get_args(Split))}")
        root, name = find_root(self.root), self.splits[split]
        if split == "train":
            return load_split(self, Layout.of(root, name), self.skip_empty, self.inst_gt, self.match)
        return load_split(self, Layout.of(root, name))

    def fingerprint(self) -> str | None:
        """SHA-256 (hex) of the training split's annotation files."""
        return Layout.of(find_root(self.root), self.splits["train"]).fingerprint()


def load_split(
    source: Source,
    layout: Layout,
    skip_empty: bool = False,
    inst_gt: InstanceTruth = "coco",
    match: SegmentMatch = "share",
) -> CocoPanoptic:
    """A split in the COCO layout, with the cached relations of ``source`` when there are any and they apply."""
    dataset = CocoPanoptic(layout, skip_empty=skip_empty, inst_gt=inst_gt, match=match)
    if inst_gt == "panoptic":  # the cache is always of the annotated instances
        return dataset
    path = relations_path(source, dataset)
    if path.is_file():
        try:
            dataset.relations = RelationCache.read(path, dataset.fingerprint)
        except DataError as error:
            log.warning("%s; relations are computed while loading", error)
    return dataset


def checked_truth(inst_gt: InstanceTruth) -> InstanceTruth:
    """``inst_gt``, or a ConfigError when it is none of those that exist."""
    if inst_gt not in INSTANCE_TRUTHS:
        raise ConfigError(f"data.source.inst_gt={inst_gt!r} is unknown; {did_you_mean(inst_gt, INSTANCE_TRUTHS)}")
    return inst_gt


def checked_match(match: SegmentMatch) -> SegmentMatch:
    """``match``, or a ConfigError when it is none of those that exist."""
    check_choice("data.source.match", match, SegmentMatch)
    return match


def find_root(root: str | Path | None, title: str = "COCO", variable: str = ROOT_VARIABLE) -> Path:
    """The root folder of a data set, from ``root`` or the environment; DataError says which folder was looked for."""
    chosen = root or os.environ.get(variable)
    ways = f"set data.root=FOLDER on the command line or the environment variable {variable}"
    if not chosen:
        raise DataError(f"{title}: no root folder was given; {ways}")
    path = Path(chosen).expanduser()
    if not path.is_dir():
        origin = "data.root" if root else variable
        raise DataError(f"{path}: the root folder of {title} (from {origin}) does not exist; {ways}")
    return path


def default_cache_dir() -> Path:
    """Where derived files go unless a folder is given."""
    chosen = os.environ.get(CACHE_VARIABLE)
    return Path(chosen).expanduser() if chosen else Path.home() / ".cache" / "panoptic_occ"


def relations_path(source: Source, dataset: CocoPanoptic) -> Path:
    """The relation cache of a split; its name holds the fingerprint, so that two copies of a data set never fight."""
    rule = "" if dataset.match == "share" else f"_{dataset.match}"
    name = f"relations_{dataset.layout.images.name}_{dataset.fingerprint[:12]}{rule}.safetensors"
    return Path(source.cache_dir) / name
