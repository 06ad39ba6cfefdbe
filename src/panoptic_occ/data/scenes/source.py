"""The source of the embedded scenes: generates them on first use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Annotated, get_args

from annotated_types import Ge

from panoptic_occ.common.errors import ConfigError
from panoptic_occ.common.kinds import Count, Scope, Share
from panoptic_occ.data.coco.dataset import CocoPanoptic
from panoptic_occ.data.coco.layout import Layout
from panoptic_occ.data.coco.panoptic_instances import InstanceTruth
from panoptic_occ.data.relations.build import ensure_relations
from panoptic_occ.data.scenes.generator import SceneSettings, generate
from panoptic_occ.data.scenes.layout import Mix
from panoptic_occ.data.source import Source, Split
from panoptic_occ.ops.segment_matching import SegmentMatch


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

    def fingerprint(self) -> None:
        """Painted scenes are a function of the settings."""
