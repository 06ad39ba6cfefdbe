"""Ground-truth relations of a whole split in one file: raw counts, so that every threshold and rule is one pass.

Only overlapping pairs are stored; an image's matrices are filled from them on request.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from jaxtyping import Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from panoptic_occ.common.errors import DataError
from panoptic_occ.common.files import atomic_path
from panoptic_occ.structures.relation import GroundTruthRelation

log = logging.getLogger(__name__)

FORMAT = "panoptic_occ.relations"
VERSION = 1
"""Raise it whenever the layout or the meaning of the counts (matching, rasterising) changes."""


@dataclass(frozen=True, eq=False)
class ImageRelation:
    """The relation among the instances of one image, with their dataset ids and their panoptic segments (0: none)."""

    image_id: int
    instance_ids: Int[Tensor, " k"]
    segment_ids: Int[Tensor, " k"]
    relation: GroundTruthRelation


@dataclass(frozen=True, eq=False)
class RelationCache:
    """Relations of I images with T instances and P overlapping pairs, images sorted by id.

    Instances of image row r: ``offsets[r] : offsets[r + 1]``; its pairs: ``pair_offsets[r] : pair_offsets[r + 1]``.
    ``pairs`` holds i < j, counted within the image; ``own_pair[p]``: common pixels that belong to i, and to j;
    ``own_self``: pixels of a mask that belong to its own segment.
    """

    image_ids: Int[Tensor, " i"]
    offsets: Int[Tensor, " i1"]
    pair_offsets: Int[Tensor, " i1"]
    instance_ids: Int[Tensor, " t"]
    segment_ids: Int[Tensor, " t"]
    area: Int[Tensor, " t"]
    pan_area: Int[Tensor, " t"]
    own_self: Int[Tensor, " t"]
    pairs: Int[Tensor, "p 2"]
    inter: Int[Tensor, " p"]
    own_pair: Int[Tensor, "p 2"]

    @staticmethod
    def of(images: Sequence[ImageRelation]) -> RelationCache:
        """The cache of ``images``, in any order; their ids must be distinct."""
        images = sorted(images, key=lambda image: image.image_id)
        relations = [image.relation for image in images]
        pairs = [r.inter.triu(diagonal=1).nonzero() for r in relations]
        none, none2 = torch.zeros(0, dtype=torch.int64), torch.zeros((0, 2), dtype=torch.int64)
        inter = [r.inter[p[:, 0], p[:, 1]] for r, p in zip(relations, pairs, strict=True)]
        own = [
            torch.stack((r.own[p[:, 0], p[:, 1]], r.own[p[:, 1], p[:, 0]]), dim=1)
            for r, p in zip(relations, pairs, strict=True)
        ]
        return RelationCache(
            image_ids=torch.tensor([image.image_id for image in images], dtype=torch.int64),
            offsets=_offsets([len(r) for r in relations]),
            pair_offsets=_offsets([len(p) for p in pairs]),
            instance_ids=torch.cat([none, *(image.instance_ids for image in images)]),
            segment_ids=torch.cat([none, *(image.segment_ids for image in images)]),
            area=torch.cat([none, *(r.area for r in relations)]).int(),
            pan_area=torch.cat([none, *(r.pan_area for r in relations)]).int(),
            own_self=torch.cat([none, *(r.own.diagonal() for r in relations)]).int(),
            pairs=torch.cat([none2, *pairs]).int(),
            inter=torch.cat([none, *inter]).int(),
            own_pair=torch.cat([none2, *own]).int(),
        )

    def __len__(self) -> int:
        return len(self.image_ids)

    def _row(self, image_id: int) -> int | None:
        row = int(torch.searchsorted(self.image_ids, image_id))
        return row if row < len(self) and int(self.image_ids[row]) == image_id else None

    def get(self, image_id: int) -> GroundTruthRelation | None:
        """The relation of an image as dense int64 matrices; None for an image that is not in the cache."""
        row = self._row(image_id)
        if row is None:
            return None
        mine = slice(int(self.offsets[row]), int(self.offsets[row + 1]))
        chosen = slice(int(self.pair_offsets[row]), int(self.pair_offsets[row + 1]))
        area = self.area[mine].long()
        first, second = self.pairs[chosen].long().unbind(dim=1)
        inter, own = torch.diag(area), torch.diag(self.own_self[mine].long())
        inter[first, second] = inter[second, first] = self.inter[chosen].long()
        own[first, second], own[second, first] = self.own_pair[chosen].long().unbind(dim=1)
        return GroundTruthRelation(area, self.pan_area[mine].long(), inter, own)

    def write(self, path: Path, fingerprint: str, info: dict[str, object] | None = None) -> None:
        """Writes everything into one safetensors file, atomically; ``info`` is kept beside it as JSON."""
        header = {"format": FORMAT, "version": str(VERSION), "fingerprint": fingerprint, "info": json.dumps(info or {})}
        tensors = {f.name: getattr(self, f.name).contiguous() for f in fields(self)}
        with atomic_path(path) as temporary:
            save_file(tensors, temporary, metadata=header)

    @staticmethod
    def read(path: Path, fingerprint: str | None = None) -> RelationCache:
        """Reads a cache.  A missing or broken file, another version, or other annotation files raise DataError."""
        fix = "build it again with `python -m panoptic_occ.prepare`"
        try:
            with safe_open(path, framework="pt") as file:
                header = file.metadata() or {}
                if header.get("format") != FORMAT:
                    raise DataError(f"{path}: format '{header.get('format')}' is not '{FORMAT}'; {fix}")
                if header.get("version") != str(VERSION):
                    raise DataError(
                        f"{path}: version {header.get('version')}, this program reads version {VERSION}; {fix}"
                    )
                if fingerprint not in (None, header.get("fingerprint")):
                    raise DataError(
                        f"{path}: made from other annotation files (fingerprint {str(header.get('fingerprint'))[:12]}, "
                        f"now {str(fingerprint)[:12]}); {fix}"
                    )
                return RelationCache(**{f.name: file.get_tensor(f.name) for f in fields(RelationCache)})
        except FileNotFoundError:
            raise DataError(f"{path}: the relation cache does not exist; {fix}") from None
        except (SafetensorError, OSError) as error:
            raise DataError(f"{path}: not a readable relation cache ({error}); {fix}") from None


def _offsets(lengths: list[int]) -> Int[Tensor, " i1"]:
    return torch.tensor([0, *lengths], dtype=torch.int64).cumsum(dim=0)
