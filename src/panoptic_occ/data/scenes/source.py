"""The source of the embedded scenes: generates them on first use."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Annotated

from panoptic_occ.common.errors import ConfigError
from panoptic_occ.common.kinds import Scope, Share
from panoptic_occ.data.coco.annotations import Layout
from panoptic_occ.data.coco.dataset import CocoPanoptic
from panoptic_occ.data.coco.panoptic_instances import InstanceTruth
from panoptic_occ.data.coco.source import (
    Source,
    Split,
    checked_match,
    checked_truth,
    default_cache_dir,
    load_split,
    relations_path,
)
from panoptic_occ.data.relations.build import ensure_relations
from panoptic_occ.data.scenes.generator import SPLITS, SceneSettings, generate
from panoptic_occ.data.scenes.layout import Mix
from panoptic_occ.ops.segment_matching import SegmentMatch

log = logging.getLogger(__name__)


class ScenesSource(Source):
    """Painted scenes of ``size`` x ``size`` px: ``train_images`` and ``val_images`` of them, a function of ``seed``.

    ``mix``: shares of the kinds of overlapping pairs (see ``scenes.layout``).  The scenes and their relations are made
    once and kept below ``cache_dir`` (by default ``PANOPTIC_OCC_CACHE`` or ``~/.cache/panoptic_occ``).  ``inst_gt``:
    what the instances of the training images are, ``match``: how they find their segments, see ``CocoPanoptic``.
    """

    def __init__(
        self,
        size: int = 128,
        train_images: int = 1600,
        val_images: Annotated[int, Scope.INPUT] = 200,
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
        self.name = name
        self.inst_gt, self.match = checked_truth(inst_gt), checked_match(match)
        if size < 64 or min(train_images, val_images) < 1:
            raise ConfigError(
                f"scenes need size >= 64 px and at least one image a split, got size={size}, "
                f"train_images={train_images}, val_images={val_images}"
            )
        try:
            shares = Mix(**(mix or {}))
            shares.kinds()
        except (TypeError, ValueError) as error:
            allowed = ", ".join(item.name for item in fields(Mix))
            raise ConfigError(f"data.source.mix: {error}; allowed: {allowed}") from None
        self.settings = SceneSettings(size, seed, shares, crowd_share, void_share)
        self.counts = dict(zip(SPLITS, (train_images, val_images), strict=True))
        self.processes = processes
        self._ready = False
        parent = default_cache_dir() if cache_dir is None else Path(cache_dir).expanduser()
        images = "_".join(f"{split}{count}" for split, count in self.counts.items())
        self.cache_dir = parent / name / f"{size}px_{images}_{self.settings.key()}"

    def prepare(self) -> None:
        """Paints what is missing and computes the relations; does nothing the second time."""
        if self._ready:
            return
        generate(self.cache_dir, self.counts, self.settings, self.processes)
        for split in SPLITS:
            dataset = CocoPanoptic.from_root(self.cache_dir, split)
            ensure_relations(dataset, relations_path(self, dataset))
        self._ready = True

    def split(self, split: Split) -> CocoPanoptic:
        """The images of a split with their relations."""
        layout = Layout.of(self.cache_dir, split)
        if split == "train":
            return load_split(self, layout, inst_gt=self.inst_gt, match=self.match)
        return load_split(self, layout)

    def fingerprint(self) -> None:
        """Painted scenes are a function of the settings."""
