"""The contract of an occlusion method: detections in, a relation (who lies in front of whom) out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from panoptic_occ.categories import Categories
from panoptic_occ.masks import PairStats
from panoptic_occ.structures import InstanceSet, Relation, Target


@dataclass(frozen=True, eq=False)
class TrainingExample:
    """Positive proposals of one training image: ``matches[n]`` is the annotation (index into the target) of proposal n.

    ``instances.soft`` and ``instances.masks`` are the base's predictions for the annotation's class.
    """

    instances: InstanceSet
    stats: PairStats
    matches: Int[Tensor, " n"]
    target: Target


class OcclusionModel(nn.Module):
    """Base class of every relation.  A method without parameters only writes ``forward``.

    ``requires`` names what ``forward`` reads beside masks, boxes, scores and labels: ``soft`` and ``roi_features`` (the
    base computes them only on demand), ``image`` (uint8 RGB at the resolution of the masks) and ``target``.
    ``sig_ratio`` (OCFusion's rho), ``significance``, ``intra`` and ``inter`` decide which pairs count at all.
    """

    requires: ClassVar[frozenset[str]] = frozenset()

    def __init__(
        self,
        *,
        in_channels: int,
        categories: Categories,
        sig_ratio: float = 0.2,
        significance: str = "either",
        intra: bool = True,
        inter: bool = True,
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.categories = categories
        self.sig_ratio = sig_ratio
        self.significance = significance
        self.intra = intra
        self.inter = inter

    def forward(
        self,
        instances: InstanceSet,
        stats: PairStats,
        image: Tensor | None = None,
        target: Target | None = None,
    ) -> Relation:
        """The relation among ``instances`` (ranked by score).  Must work for N = 0 and N = 1."""
        raise NotImplementedError

    def loss(self, examples: Sequence[TrainingExample], generator: torch.Generator) -> dict[str, Tensor]:
        """Named losses over a batch, each a scalar with a graph to every parameter, also when no image has a pair.

        ``generator`` is the only source of randomness (a CPU generator, a function of seed and step).
        """
        raise NotImplementedError(f"{type(self).__name__} has nothing to train")

    @property
    def trainable(self) -> bool:
        """Whether the method has parameters that stage 2 trains."""
        return any(True for _ in self.parameters())

    def pairs(self, instances: InstanceSet, stats: PairStats) -> Bool[Tensor, "n n"]:
        """Pairs that the method may decide: significant overlap, and allowed by the intra/inter class switches."""
        same = instances.labels[:, None] == instances.labels[None, :]
        allowed = (same & self.intra) | (~same & self.inter)
        return stats.significant(self.sig_ratio, self.significance) & allowed.to(stats.inter.device)
