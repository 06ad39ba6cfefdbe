"""The source of the embedded scenes: paints them on first use, as a data set in the official COCO panoptic layout."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Annotated, Any, get_args

import numpy as np
from annotated_types import Ge
from numpy.typing import NDArray
from PIL import Image

from panoptic_occ.common.errors import ConfigError
from panoptic_occ.common.files import atomic_path
from panoptic_occ.common.kinds import Count, Scope, Share
from panoptic_occ.data.coco.dataset import CocoPanoptic
from panoptic_occ.data.coco.layout import Layout
from panoptic_occ.data.coco.panoptic_instances import InstanceTruth
from panoptic_occ.data.coco.panoptic_io import write_panoptic_png
from panoptic_occ.data.coco.writer import Part, mask_entry, write_splits
from panoptic_occ.data.relations.build import ensure_relations
from panoptic_occ.data.scenes.layout import THINGS, Mix
from panoptic_occ.data.scenes.painter import STUFF, PaintedScene, paint_scene
from panoptic_occ.data.source import Source, Split
from panoptic_occ.ops.segment_matching import SegmentMatch
from panoptic_occ.structures.categories import Categories, Category

VERSION = 2
"""Raise it when a change of the code changes the scenes; it is part of the folder's name."""

SPLITS = ("train", "val")
# As in COCO, the ids have gaps, so that nothing can mistake them for contiguous labels.
CATEGORY_IDS = {name: 1 + 2 * k for k, name in enumerate(THINGS)} | {name: 101 + k for k, name in enumerate(STUFF)}
COLORS = {
    "disc": (220, 60, 60), "tile": (240, 150, 40), "triangle": (235, 210, 70), "star": (120, 190, 60),
    "plus": (40, 170, 150), "pill": (60, 130, 220), "hexagon": (110, 90, 210), "drop": (190, 80, 190),
    "diamond": (240, 110, 160), "grass": (90, 140, 80), "bricks": (160, 100, 80), "water": (80, 120, 160),
    "sand": (190, 175, 135),
}  # fmt: skip
CATEGORIES = Categories(tuple(Category(n, name, name in THINGS, COLORS[name]) for name, n in CATEGORY_IDS.items()))


@dataclass(frozen=True)
class SceneSettings:
    """What a set of scenes is a function of: image side in pixels, seed, shares of pairs, crowds and void patches."""

    size: int = 128
    seed: int = 0
    mix: Mix = field(default_factory=Mix)
    crowd_share: float = 0.12
    void_share: float = 0.3

    def key(self) -> str:
        """Twelve hex digits over the settings and the version of the painter."""
        text = json.dumps({"version": VERSION, **asdict(self)}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


class ScenesSource(Source):
    """Painted scenes of ``size`` x ``size`` px: ``train_images`` and ``val_images`` of them, a function of ``seed``.

    ``mix``: shares of the kinds of overlapping pairs (see ``scenes.layout``).  The scenes and their relations are made
    once and kept below ``cache_dir``.  The other settings are those of ``Source``.
    """

    def __init__(
        self,
        size: Annotated[int, Ge(64)] = 128,
        train_images: Count = 1600,
        val_images: Annotated[Count, Scope.INPUT] = 200,
        seed: int = 0,
        mix: Mapping[str, float] | None = None,
        crowd_share: Share = 0.12,
        void_share: Share = 0.3,
        cache_dir: Annotated[str | Path | None, Scope.MACHINE] = None,
        processes: Annotated[int | None, Scope.MACHINE] = None,
        name: Annotated[str, Scope.LABEL] = "scenes",
        inst_gt: InstanceTruth = "coco",
        match: SegmentMatch = "share",
    ) -> None:
        super().__init__(name, cache_dir and Path(cache_dir) / name, inst_gt=inst_gt, match=match)
        try:
            shares = Mix(**(mix or {}))
            shares.kinds()
        except (TypeError, ValueError) as error:
            allowed = ", ".join(item.name for item in fields(Mix))
            raise ConfigError(f"data.source.mix: {error}; allowed: {allowed}") from None
        self.settings = SceneSettings(size, seed, shares, crowd_share, void_share)
        self.counts: dict[str, int] = {"train": train_images, "val": val_images}
        self.processes = processes
        images = "_".join(f"{split}{count}" for split, count in self.counts.items())
        self.cache_dir /= f"{size}px_{images}_{self.settings.key()}"
        self._ready = False

    def prepare(self) -> None:
        """Paints what is missing and computes the relations; does nothing the second time."""
        if self._ready:
            return
        generate(self.cache_dir, self.counts, self.settings, self.processes)
        for split in get_args(Split):
            layout = self.layout(split)
            data = CocoPanoptic(layout, manifest=self.manifest(layout))
            ensure_relations(data, self.relations_path(data))
        self._ready = True

    def layout(self, split: Split) -> Layout:
        """The folders of a split below the cache."""
        return Layout.of(self.cache_dir, split)


def generate(root: Path, counts: Mapping[str, int], settings: SceneSettings, processes: int | None = None) -> None:
    """Writes ``counts[split]`` scenes of every split below ``root``, see ``write_splits``."""
    work = partial(_write_scene, root, settings)
    write_splits(root, counts, work, CATEGORIES, processes, "painting scenes")


def _write_scene(root: Path, settings: SceneSettings, split: str, number: int) -> Part:
    """Paints one scene of a split, writes its image and PNG, and returns its annotations."""
    layout = Layout.of(root, split)
    rng = np.random.default_rng([VERSION, settings.seed, SPLITS.index(split), number])
    scene = paint_scene(settings.size, settings.mix, rng, settings.crowd_share, settings.void_share)
    name = f"{number:012d}"
    encoded = io.BytesIO()
    Image.fromarray(scene.image).save(encoded, "JPEG", quality=95, subsampling=0)
    with atomic_path(layout.images / f"{name}.jpg") as temporary:
        temporary.write_bytes(encoded.getvalue())
    ids, segments = _panoptic(scene)
    write_panoptic_png(layout.panoptic / f"{name}.png", ids)
    return {
        "image": {"id": number, "file_name": f"{name}.jpg", "height": settings.size, "width": settings.size},
        "instances": _instances(scene, number),
        "panoptic": {"image_id": number, "file_name": f"{name}.png", "segments_info": segments},
    }


def _instances(scene: PaintedScene, image_id: int) -> list[dict[str, Any]]:
    """The things, the crowd last; ids are given when all scenes are merged."""
    masks = [(name, mask, 0) for name, mask in scene.things]
    if scene.crowd is not None:
        masks.append((*scene.crowd, 1))
    return [
        {"image_id": image_id, "category_id": CATEGORY_IDS[name], "iscrowd": iscrowd, **mask_entry(mask)}
        for name, mask, iscrowd in masks
    ]


def _panoptic(scene: PaintedScene) -> tuple[NDArray[np.int64], list[dict[str, Any]]]:
    """The panoptic map and its segments; ids are spread over the range so that they mean nothing."""
    ids = np.zeros(scene.owner.shape, np.int64)
    segments: list[dict[str, Any]] = []

    def add(mask: NDArray[np.bool_], name: str, iscrowd: int = 0) -> None:
        if mask.any():
            number = 1_000 + 7_919 * len(segments)
            ids[mask] = number
            extent = mask_entry(mask)
            del extent["segmentation"]
            segments.append({"id": number, "category_id": CATEGORY_IDS[name], "iscrowd": iscrowd, **extent})

    free = scene.owner < 0
    if scene.crowd is not None:
        add(scene.crowd[1], scene.crowd[0], 1)
        free &= ~scene.crowd[1]
    for k, name in enumerate(STUFF):
        add(free & (scene.stuff == k), name)
    for k, (name, _) in enumerate(scene.things):
        add(scene.owner == k, name)
    return ids, segments
