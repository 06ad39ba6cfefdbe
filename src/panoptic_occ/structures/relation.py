"""The data that crosses package borders: frozen dataclasses of tensors, one image each.

All in one file, however long: this is the language that every package speaks.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from panoptic_occ.structures.masks import MaskCrops, PairStats


@dataclass(frozen=True, eq=False)
class Relation:
    """Who lies in front: ``margin[i, j] > 0`` means i is above j, and counts only where ``valid[i, j]``.

    ``order``: the order in which the fusion offers the instances (None: as given, by score).  ``value`` (N,): the
    key of a unary method, larger = closer.  The flags say what the method guarantees; nothing is symmetrised silently.
    ``score_decides``: pairs in which the scores alone gave the answer, whatever the method sees (None: those that are
    not ``valid``).  ``claims``: for methods that give pixels away one by one, what each instance may take (None: all of
    its mask), mostly a part of its mask; thresholds still compare with the whole mask.  ``duplicate_of``: for methods
    that first suppress detections, the instance that each one repeats (-1: none); the fusion leaves repetitions out.
    ``stuff``: for methods that decide about all pixels, the label of the stuff there (``VOID_LABEL``: none), in place
    of the stuff branch's.
    """

    margin: Float[Tensor, "n n"]
    valid: Bool[Tensor, "n n"]
    order: Int[Tensor, " n"] | None = None
    value: Float[Tensor, " n"] | None = None
    antisymmetric: bool = True
    transitive: bool = False
    score_decides: Bool[Tensor, "n n"] | None = None
    claims: MaskCrops | None = None
    duplicate_of: Int[Tensor, " n"] | None = None
    stuff: Int[Tensor, "h w"] | None = None

    def above(self) -> Bool[Tensor, "n n"]:
        """``above[i, j]``: the method says that i lies above j (a NaN margin says nothing)."""
        return self.valid & (self.margin > 0)


@dataclass(frozen=True, eq=False)
class GroundTruthRelation:
    """Raw counts of the K non-crowd instances of one image; thresholds and rules are applied late, so a sweep over
    them is one pass over the data.

    ``area[i] = |M_i|``; ``pan_area[i]``: pixels of its panoptic segment (0 without one); ``inter[i, j] = |M_i & M_j|``;
    ``own[i, j]``: pixels of ``M_i & M_j`` that the panoptic map gives to i (OCFusion 3.2).
    """

    area: Int[Tensor, " k"]
    pan_area: Int[Tensor, " k"]
    inter: Int[Tensor, "k k"]
    own: Int[Tensor, "k k"]

    def matrix(
        self, sig_ratio: float, rule: Literal["majority", "delta"] = "majority", strict: bool = False
    ) -> Int[Tensor, "k k"]:
        """(K,K) int8: 1 where i lies above j, 0 where j lies above i, -1 where that is unknown or not significant.

        ``majority``: who owns more of the common pixels (OCFusion).  ``delta``: who lost fewer pixels to the panoptic
        map in total (RAP's script).
        """
        lead = self.lead(rule)
        order = torch.where(lead > 0, 1, torch.where(lead < 0, 0, -1)).to(torch.int8)
        significant = PairStats(self.area, self.inter).significant(sig_ratio, "either", strict)
        return torch.where(significant, order, torch.full_like(order, -1))

    def lead(self, rule: Literal["majority", "delta"] = "majority") -> Int[Tensor, "k k"]:
        """Antisymmetric (K,K) int64: by how many pixels i is ahead of j; 0 is a tie."""
        if rule == "majority":
            return self.own - self.own.T
        if rule == "delta":
            lost = self.area - self.pan_area
            return lost[None, :] - lost[:, None]
        raise ValueError(f"ground-truth rule '{rule}' is unknown; allowed: majority, delta")

    def __len__(self) -> int:
        return len(self.area)

    def __getitem__(self, index: Tensor) -> GroundTruthRelation:
        """The relation among the instances at ``index``."""
        return GroundTruthRelation(
            self.area[index], self.pan_area[index], self.inter[index][:, index], self.own[index][:, index]
        )

    def to(self, device: torch.device | str) -> GroundTruthRelation:
        """The same counts on ``device``."""
        return GroundTruthRelation(*(getattr(self, f.name).to(device) for f in fields(self)))
