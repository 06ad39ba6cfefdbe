"""Who lies in front of whom: the answer of an order for one image, and the counts of its annotations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from panoptic_occ.common.errors import check_choice
from panoptic_occ.structures.masks import MaskCrops, PairStats

GroundTruthRule = Literal["majority", "delta"]
"""Who of two annotations lies in front: who owns more of the common pixels (``majority``, OCFusion 3.2), or who lost
fewer pixels to the panoptic map in total (``delta``, RAP's script)."""


@dataclass(frozen=True, eq=False)
class Relation:
    """Who lies in front: ``margin[i, j] > 0`` means i is above j, and counts only where ``valid[i, j]``.

    ``order``: the order in which the fusion offers the instances; None: as given, by score.
    ``value`` (N,): the key of a unary method, larger = closer.
    ``antisymmetric``, ``transitive``: what the method guarantees; nothing is symmetrised silently.
    ``score_decides``: pairs that the scores alone decided, whatever the method sees; None: those that are not valid.
    ``claims``: what each instance may take, for methods that give pixels away one by one; None: all of its mask.
    Mostly a part of the mask; thresholds still compare with the whole mask.
    ``duplicate_of``: the instance that each one repeats, -1 for none; the fusion leaves repetitions out.
    ``stuff``: label of the stuff of every pixel, ``VOID_LABEL`` for none, for methods that decide about all pixels; it
    replaces the stuff branch's.

    >>> import torch
    >>> from panoptic_occ import Relation
    >>> relation = Relation(margin=torch.tensor([[0.0, -2.0], [2.0, 0.0]]), valid=~torch.eye(2, dtype=torch.bool))
    >>> relation.above().tolist()
    [[False, False], [True, False]]
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
    """Raw counts of the K non-crowd instances of one image; thresholds and rules are applied late.

    ``area[i] = |M_i|``.  ``pan_area[i]``: pixels of its panoptic segment, 0 without one.
    ``inter[i, j] = |M_i & M_j|``.  ``visible[i, j]``: pixels of ``M_i & M_j`` that show i in the panoptic map (OCFusion
    3.2).

    >>> import torch
    >>> from panoptic_occ import GroundTruthRelation
    >>> area, inter = torch.tensor([8, 4]), torch.tensor([[8, 2], [2, 4]])
    >>> counts = GroundTruthRelation(area, torch.tensor([4, 2]), inter, visible=torch.tensor([[4, 2], [0, 2]]))
    >>> counts.matrix(sig_ratio=0.2).tolist()
    [[-1, 1], [0, -1]]
    >>> counts.matrix(sig_ratio=0.2, rule="delta").tolist()
    [[-1, 0], [1, -1]]
    """

    area: Int[Tensor, " k"]
    pan_area: Int[Tensor, " k"]
    inter: Int[Tensor, "k k"]
    visible: Int[Tensor, "k k"]

    def matrix(self, sig_ratio: float, rule: GroundTruthRule = "majority", strict: bool = False) -> Int[Tensor, "k k"]:
        """(K,K) int8: 1 where i lies above j, 0 where j lies above i, -1 where that is unknown or not significant."""
        lead = self.lead(rule)
        significant = PairStats(self.area, self.inter).significant(sig_ratio, "either", strict)
        return torch.where(significant & (lead != 0), (lead > 0).to(torch.int8), -1)

    def lead(self, rule: GroundTruthRule = "majority") -> Int[Tensor, "k k"]:
        """Antisymmetric (K,K) int64: by how many pixels i is ahead of j; 0 is a tie.  ConfigError for other rules."""
        check_choice("rule", rule, GroundTruthRule)
        if rule == "majority":
            return self.visible - self.visible.T
        lost = self.area - self.pan_area
        return lost[None, :] - lost[:, None]

    def __len__(self) -> int:
        return len(self.area)

    def __getitem__(self, index: Tensor) -> GroundTruthRelation:
        """The relation among the instances at ``index``."""
        inter, visible = self.inter[index][:, index], self.visible[index][:, index]
        return GroundTruthRelation(self.area[index], self.pan_area[index], inter, visible)

    def to(self, device: torch.device | str) -> GroundTruthRelation:
        """The same counts on ``device``."""
        return GroundTruthRelation(*(counts.to(device) for counts in vars(self).values()))
