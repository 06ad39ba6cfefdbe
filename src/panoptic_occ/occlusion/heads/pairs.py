"""A yes or no about ordered pairs of instances: which pairs are read at test time, and which teach (OCFusion, 3.2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from panoptic_occ.common.kinds import Count
from panoptic_occ.config.values import checked
from panoptic_occ.occlusion.base import OcclusionModel, TrainingExample
from panoptic_occ.structures.instances import InstanceSet, by_score
from panoptic_occ.structures.masks import PairStats
from panoptic_occ.structures.relation import GroundTruthRule
from panoptic_occ.structures.target import Target


class PairOrder(OcclusionModel):
    """An order that learns whether the first of two instances lies above the second; subclasses write ``logits``.

    ``pairs_per_image``: training pairs, each in both directions (B = 128).  ``gt_rule``: which order of two annotations
    it learns.
    """

    requires: ClassVar[frozenset[str]] = frozenset({"soft", "roi_features"})

    @checked("occlusion")
    def __init__(self, *, pairs_per_image: Count = 128, gt_rule: GroundTruthRule = "majority", **common: Any) -> None:
        super().__init__(**common)
        self.pairs_per_image = pairs_per_image
        self.gt_rule: GroundTruthRule = gt_rule

    @property
    def later_only(self) -> bool:
        """Whether only the direction "the later instance lies above the earlier one" is read."""
        raise NotImplementedError

    def logits(self, images: Sequence[InstanceSet], pairs: Int[Tensor, "p 2"]) -> Float[Tensor, " p"]:
        """Logits of "the first lies above the second"; ``pairs`` count through the instances of all ``images``."""
        raise NotImplementedError

    def selected_pairs(self, instances: InstanceSet, stats: PairStats) -> Bool[Tensor, "n n"]:
        """Pairs that count, with ``later_only`` only those whose row is the later one by score."""
        later = self.pairs(instances, stats) & later_rows(instances)
        return later if self.later_only else later | later.T

    def head_outputs(self, instances: InstanceSet, stats: PairStats, wide: bool = False) -> dict[str, Tensor]:
        """``logits`` (N, N) of "row lies above column", for the pairs that ``relate`` reads."""
        pairs = (stats.inter > 0).fill_diagonal_(False) if wide else self.selected_pairs(instances, stats)
        matrix = torch.full(pairs.shape, torch.nan, device=pairs.device)
        if pairs.any():
            matrix[pairs] = self.logits([instances], pairs.nonzero())
        return {"logits": matrix}

    def trainable_annotations(self, target: Target) -> Bool[Tensor, " k"]:
        """Annotations that have an order with another one."""
        return (target.relation.matrix(self.sig_ratio, self.gt_rule) >= 0).any(dim=1)

    def loss(self, examples: Sequence[TrainingExample], generator: torch.Generator) -> dict[str, Tensor]:
        """Binary cross-entropy, mean over the ordered ``training_pairs`` of the batch; 0 with a graph without any."""
        pairs, targets, offset = [], [], 0
        for example in examples:
            selected, above = self.training_pairs(example, generator)
            pairs.append(selected + offset)
            targets.append(above)
            offset += len(example.instances)
        logits = self.logits([example.instances for example in examples], torch.cat(pairs))
        total = F.binary_cross_entropy_with_logits(logits, torch.cat(targets), reduction="sum")
        return {"loss_occlusion": total / max(len(logits), 1)}

    def training_pairs(
        self, example: TrainingExample, generator: torch.Generator
    ) -> tuple[Int[Tensor, "p 2"], Float[Tensor, " p"]]:
        """Ordered pairs of proposals and whether the first lies above (1.0) or below (0.0) the second.

        A pair counts when the annotations of the two have an order, and their predicted masks overlap significantly
        (either ratio: the directional rule gives the same pairs of both directions).  The second half of the rows is
        the first half swapped.
        """
        above = example.annotated_order(self.sig_ratio, self.gt_rule)
        candidates = (example.stats.significant(self.sig_ratio) & (above >= 0)).triu(diagonal=1).nonzero()
        pairs = sampled(candidates, self.pairs_per_image, generator)
        targets = above[pairs[:, 0], pairs[:, 1]].float()
        return torch.cat([pairs, pairs.flip(1)]), torch.cat([targets, 1 - targets])


def sampled(pairs: Int[Tensor, "n 2"], most: int, generator: torch.Generator) -> Int[Tensor, "p 2"]:
    """At most ``most`` of the rows, drawn uniformly."""
    if len(pairs) <= most:
        return pairs
    return pairs[torch.randperm(len(pairs), generator=generator)[:most].to(pairs.device)]


def later_rows(instances: InstanceSet) -> Bool[Tensor, "n n"]:
    """Ordered pairs whose row comes later than the column in the order of scores (stable)."""
    ranks = by_score(instances.scores).argsort()
    return ranks[:, None] > ranks[None, :]
