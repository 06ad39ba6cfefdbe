"""Ground-truth relations of a whole split in one file: raw counts, so that every threshold and rule is one pass.

Only overlapping pairs are stored; an image's matrices are filled from them on request.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from panoptic_occ.common.errors import DataError
from panoptic_occ.common.tensor_file import TensorFormat
from panoptic_occ.structures.relation import GroundTruthRelation

VERSION = 2
"""Raise it when the layout or the meaning of the counts (matching, rasterising) changes; part of the files' names."""
RELATIONS = TensorFormat(
    "panoptic_occ.relations", VERSION, DataError, "build it again with `python -m panoptic_occ.prepare`"
)


@dataclass(frozen=True, eq=False)
class ImageRelation:
    """The relation among the instances of one image, with their contiguous labels."""

    image_id: int
    labels: Int[Tensor, " k"]
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
    labels: Int[Tensor, " t"]
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
        at = [tuple(p.T) for p in pairs]
        inter = [r.inter[pair] for r, pair in zip(relations, at, strict=True)]
        own = [torch.stack((r.visible[pair], r.visible.T[pair]), dim=1) for r, pair in zip(relations, at, strict=True)]
        none = torch.zeros(0, dtype=torch.int64)
        return RelationCache(
            image_ids=torch.tensor([image.image_id for image in images], dtype=torch.int64),
            offsets=_offsets([len(r) for r in relations]),
            pair_offsets=_offsets([len(p) for p in pairs]),
            labels=torch.cat([none, *(image.labels for image in images)]),
            area=torch.cat([none, *(r.area for r in relations)]).int(),
            pan_area=torch.cat([none, *(r.pan_area for r in relations)]).int(),
            own_self=torch.cat([none, *(r.visible.diagonal() for r in relations)]).int(),
            pairs=torch.cat([none.view(0, 2), *pairs]).int(),
            inter=torch.cat([none, *inter]).int(),
            own_pair=torch.cat([none.view(0, 2), *own]).int(),
        )

    def __len__(self) -> int:
        return len(self.image_ids)

    def get(self, image_id: int) -> GroundTruthRelation | None:
        """The relation of an image as dense int64 matrices; None for an image that is not in the cache."""
        row = int(torch.searchsorted(self.image_ids, image_id))
        if row == len(self) or int(self.image_ids[row]) != image_id:
            return None
        instances = slice(int(self.offsets[row]), int(self.offsets[row + 1]))
        rows = slice(int(self.pair_offsets[row]), int(self.pair_offsets[row + 1]))
        area = self.area[instances].long()
        first, second = self.pairs[rows].long().unbind(dim=1)
        inter, own = torch.diag(area), torch.diag(self.own_self[instances].long())
        inter[first, second] = inter[second, first] = self.inter[rows].long()
        own[first, second], own[second, first] = self.own_pair[rows].long().unbind(dim=1)
        return GroundTruthRelation(area, self.pan_area[instances].long(), inter, own)

    def all_pairs(self) -> tuple[Int[Tensor, " p"], Int[Tensor, "p 2"], Float[Tensor, " p"]]:
        """Of every pair: the row of its image, the rows of its instances, and its intersection / smaller mask."""
        image = torch.repeat_interleave(torch.arange(len(self)), self.pair_offsets.diff())
        instances = self.offsets[image][:, None] + self.pairs
        return image, instances, self.inter.double() / self.area[instances].amin(dim=1).clamp(min=1).double()

    def write(self, path: Path, fingerprint: str) -> None:
        """Writes everything into one file, atomically; ``fingerprint``: of the annotations."""
        tensors = {field.name: getattr(self, field.name) for field in fields(self)}
        RELATIONS.write(path, tensors, {"fingerprint": fingerprint})

    @staticmethod
    def read(path: Path, fingerprint: str | None = None) -> RelationCache:
        """Reads a cache.  A missing or damaged file, another version, or other annotations raise DataError."""
        header, tensors = RELATIONS.read(path)
        if fingerprint not in (None, header["fingerprint"]):
            raise DataError(
                f"{path}: made from other annotations (fingerprint {header['fingerprint'][:12]}, now "
                f"{str(fingerprint)[:12]}); {RELATIONS.advice}"
            )
        return RelationCache(**tensors)


def _offsets(lengths: list[int]) -> Int[Tensor, " i1"]:
    return torch.tensor([0, *lengths], dtype=torch.int64).cumsum(dim=0)
