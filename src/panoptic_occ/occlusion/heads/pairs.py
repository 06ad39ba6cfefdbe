"""A yes or no about ordered pairs of instances: who is asked at test time, and who teaches (OCFusion, section 3.2)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from panoptic_occ.occlusion.base import TrainingExample
from panoptic_occ.structures.instances import InstanceSet

PairLogits = Callable[[Sequence[InstanceSet], Int[Tensor, "p 2"]], Float[Tensor, " p"]]
"""Logits of "the first of the pair lies above the second"; pairs count through the instances of all images."""


def pair_matrix(logits: PairLogits, instances: InstanceSet, asked: Bool[Tensor, "n n"]) -> Float[Tensor, "n n"]:
    """The logits of the asked ordered pairs of one image, NaN elsewhere."""
    matrix = torch.full(asked.shape, torch.nan, device=asked.device)
    if asked.any():
        matrix[asked] = logits([instances], asked.nonzero())
    return matrix


def later_rows(instances: InstanceSet) -> Bool[Tensor, "n n"]:
    """Ordered pairs whose row comes later than the column in the order of scores (stable)."""
    ranks = torch.argsort(instances.scores, descending=True, stable=True).argsort()
    return ranks[:, None] > ranks[None, :]


def pair_bce(
    logits: PairLogits,
    examples: Sequence[TrainingExample],
    sig_ratio: float,
    limit: int,
    generator: torch.Generator,
    rule: Literal["majority", "delta"] = "majority",
) -> Float[Tensor, ""]:
    """Binary cross-entropy, mean over the ordered ``training_pairs`` of the batch; 0 with a graph without any."""
    pairs, targets, offset = [], [], 0
    for example in examples:
        chosen, above = training_pairs(example, sig_ratio, limit, generator, rule)
        pairs.append(chosen + offset)
        targets.append(above)
        offset += len(example.instances)
    answers = logits([example.instances for example in examples], torch.cat(pairs))
    total = F.binary_cross_entropy_with_logits(answers, torch.cat(targets), reduction="sum")
    return total / max(len(answers), 1)


def training_pairs(
    example: TrainingExample,
    sig_ratio: float,
    limit: int,
    generator: torch.Generator,
    rule: Literal["majority", "delta"] = "majority",
) -> tuple[Int[Tensor, "p 2"], Float[Tensor, " p"]]:
    """Ordered pairs of proposals and whether the first lies above (1.0) or below (0.0) the second.

    A pair counts when the two proposals stand for different annotations of known order (by ``rule``) and their
    predicted masks overlap significantly (either ratio: with both directions emitted, the directional rule gives the
    same pairs).  At most ``limit`` unordered pairs are drawn uniformly; the second half of the rows is the first half
    swapped.
    """
    matches = example.matches
    order = example.target.relation.matrix(sig_ratio, rule).to(matches.device)
    if len(order) == 0:
        return matches.new_zeros((0, 2)), torch.zeros(0, device=matches.device)
    above = order[matches[:, None], matches[None, :]]  # -1 for proposals of the same annotation
    candidates = (example.stats.significant(sig_ratio) & (above >= 0)).triu(diagonal=1).nonzero()
    if len(candidates) > limit:
        chosen = torch.randperm(len(candidates), generator=generator)[:limit]
        candidates = candidates[chosen.to(candidates.device)]
    targets = above[candidates[:, 0], candidates[:, 1]].float()
    return torch.cat([candidates, candidates.flip(1)]), torch.cat([targets, 1 - targets])
