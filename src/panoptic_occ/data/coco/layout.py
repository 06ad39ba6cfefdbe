"""Where the files of a split lie in a folder of COCO."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from panoptic_occ.data.coco.orientation import Orientation


@dataclass(frozen=True)
class Layout:
    """The folders of images and panoptic PNGs and the two annotation files of one split, and how images are read."""

    images: Path
    panoptic: Path
    panoptic_json: Path
    instances_json: Path
    orientation: Orientation = "pixels"

    @staticmethod
    def of(root: Path, split: str) -> Layout:
        """The folders as COCO distributes them, for ``split`` such as ``train2017``."""
        annotations = Path(root) / "annotations"
        return Layout(
            images=Path(root) / split,
            panoptic=annotations / f"panoptic_{split}",
            panoptic_json=annotations / f"panoptic_{split}.json",
            instances_json=annotations / f"instances_{split}.json",
        )

    @property
    def annotation_files(self) -> tuple[Path, ...]:
        """Both annotation files; the panoptic JSON alone, where there is no other."""
        return (self.panoptic_json, *([self.instances_json] if self.instances_json.exists() else []))
