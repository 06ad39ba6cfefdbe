"""COCO 2017 as a source of data, and any data set in the same layout."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

from panoptic_occ.common.errors import DataError, check_choice
from panoptic_occ.common.kinds import Scope
from panoptic_occ.data.coco.layout import Layout
from panoptic_occ.data.coco.orientation import Orientation
from panoptic_occ.data.coco.panoptic_instances import InstanceTruth
from panoptic_occ.data.source import Source, Split, find_root
from panoptic_occ.ops.segment_matching import SegmentMatch

ROOT_VARIABLE = "PANOPTIC_OCC_COCO"


class CocoSource(Source):
    """COCO 2017 from a root folder, unpacked as distributed; any data set in the same layout with its own split names.

    ``root``: the folder, or None to take the environment variable ``PANOPTIC_OCC_COCO``.  ``orientation``: whether the
    annotations fit the stored pixels of the images or what a viewer shows.  The other settings are those of ``Source``.
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
        orientation: Orientation = "pixels",
    ) -> None:
        super().__init__(name, cache_dir, inst_gt=inst_gt, match=match, skip_empty=skip_empty)
        check_choice("data.source.orientation", orientation, Orientation)
        self.root = root
        self.orientation = orientation
        self.folders: dict[Split, str] = {"train": train_split, "val": val_split}

    def prepare(self) -> None:
        """Checks that the folders exist; DataError names the first that does not.

        Data without any file of the training split are data to evaluate on.
        """
        root = find_root(self.root, "COCO", ROOT_VARIABLE)
        for name, split in self.folders.items():
            folders = (root / "annotations" / f"panoptic_{split}", root / split)
            if name == "train" and not any(folder.exists() for folder in folders):
                continue
            for folder in (root / "annotations", *folders):
                if not folder.is_dir():
                    raise DataError(
                        f"{folder}: the folder does not exist; {root} must hold annotations/ (with "
                        f"instances_{split}.json, panoptic_{split}.json and the folder panoptic_{split}/) and {split}/"
                    )

    def layout(self, split: Split) -> Layout:
        """The folders of a split below the root."""
        layout = Layout.of(find_root(self.root, "COCO", ROOT_VARIABLE), self.folders[split])
        return replace(layout, orientation=self.orientation)
