"""OCFusion: a binary question per ordered pair of instances (Lazarow et al., CVPR 2020, "Learning Instance Occlusion
for Panoptic Segmentation").

Shapes: N instances, P ordered pairs, C channels of the RoI features, masks 28x28, features 14x14.
    x_i  = [maxpool2(m_i), f_i]                  (C+1, 14, 14)   soft mask of the own class, raw RoIAlign feature
    o_ij = head([x_i, x_j])                      logit of "i lies above j"
Section 3.3 gives the head, section 3.2 the targets, Algorithm 1 (in ``fusion.engine``) the fusion.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from panoptic_occ.errors import ConfigError, did_you_mean
from panoptic_occ.masks import PairStats
from panoptic_occ.occlusion.base import OcclusionModel, TrainingExample
from panoptic_occ.structures import InstanceSet, Relation, Target

ROI_SIZE = 14
PAIRS_AT_ONCE = {"cpu": 32, "cuda": 512}  # 13 and 206 MB per activation in float32 at 512 channels
FLAT_AT_ONCE = 512  # 50 MB; the gradient of fc1 is as large as its 25 million weights, so it is made once
SPLIT_FROM = 1.25  # pairs per instance from which the first convolution is cheaper once per instance than once per pair
SYMMETRIES = ("raw", "avg")
RULES = ("majority", "delta")

PairLogits = Callable[[Sequence[InstanceSet], Int[Tensor, "p 2"]], Float[Tensor, " p"]]
"""Logits of "the first of the pair lies above the second"; pairs count through the instances of all images."""


class OCFusion(OcclusionModel):
    """The pairwise occlusion head of OCFusion.

    ``channels``, ``hidden``: width of the convolutions and of the fully connected layer; None: 2 and 4 times the width
    of the features (512 and 1024 in the paper).  ``pairs_per_image``: training pairs, each seen in both directions
    (B = 128).  ``logit_thr``: the logit that the later instance must exceed to lie above (0 in the paper, 0.5 in the
    released code).  ``sym``: ``raw`` asks only for the later instance (the paper), ``avg`` takes (o_ij - o_ji) / 2.
    ``gt_rule``: which order of two annotations it learns, see ``GroundTruthRelation.matrix``.
    """

    requires: ClassVar[frozenset[str]] = frozenset({"soft", "roi_features"})
    test_only: ClassVar[frozenset[str]] = OcclusionModel.test_only | {"logit_thr", "sym"}

    def __init__(
        self,
        *,
        in_channels: int,
        channels: int | None = None,
        hidden: int | None = None,
        pairs_per_image: int = 128,
        gt_rule: Literal["majority", "delta"] = "majority",
        logit_thr: float = 0.0,
        sym: Literal["raw", "avg"] = "raw",
        **common: Any,
    ) -> None:
        super().__init__(in_channels=in_channels, **common)
        if sym not in SYMMETRIES:
            raise ConfigError(f"occlusion.sym={sym!r} is unknown; {did_you_mean(sym, SYMMETRIES)}")
        if gt_rule not in RULES:
            raise ConfigError(f"occlusion.gt_rule={gt_rule!r} is unknown; {did_you_mean(gt_rule, RULES)}")
        if pairs_per_image < 1:
            raise ConfigError(f"occlusion.pairs_per_image={pairs_per_image}: at least one pair is needed to train")
        self.pairs_per_image = pairs_per_image
        self.gt_rule = gt_rule
        self.logit_thr = logit_thr
        self.sym = sym
        self.head = PairHead(in_channels + 1, channels or 2 * in_channels, hidden or 4 * in_channels)

    def answers(self, instances: InstanceSet, stats: PairStats, wide: bool = False) -> dict[str, Tensor]:
        """``logits`` (N, N) of "row lies above column", for the pairs that ``relate`` reads."""
        if wide:
            asked = (stats.inter > 0).fill_diagonal_(False)
        else:
            asked = self.asked(instances, stats)
            asked = asked if self.sym == "raw" else asked | asked.T
        return {"logits": pair_matrix(self.logits, instances, asked)}

    def relate(self, instances: InstanceSet, stats: PairStats, answers: Mapping[str, Tensor]) -> Relation:
        """Pairs that the fusion can read: significant, the row later in the order of scores."""
        logits = answers["logits"]
        asked = self.asked(instances, stats)
        if self.sym == "raw":
            margin = torch.where(asked, logits - self.logit_thr, 0)
            return Relation(margin, asked, antisymmetric=False)
        both = asked | asked.T
        # the threshold stays a hurdle for the later instance, so it counts with opposite sign in the other direction
        hurdle = self.logit_thr * (asked.float() - asked.T.float())
        return Relation(torch.where(both, (logits - logits.T) / 2 - hurdle, 0), both)

    def asked(self, instances: InstanceSet, stats: PairStats) -> Bool[Tensor, "n n"]:
        """Pairs that count, the row later in the order of scores."""
        return self.pairs(instances, stats) & later_rows(instances)

    def taught_by(self, target: Target) -> Bool[Tensor, " k"]:
        """Annotations of which the order to another one is known."""
        return (target.relation.matrix(self.sig_ratio, self.gt_rule) >= 0).any(dim=1)

    def loss(self, examples: Sequence[TrainingExample], generator: torch.Generator) -> dict[str, Tensor]:
        """Binary cross-entropy over the ordered pairs of the batch, see ``pair_bce``."""
        limit = self.pairs_per_image
        loss = pair_bce(self.logits, examples, self.sig_ratio, limit, generator, self.gt_rule)
        return {"loss_occlusion": loss}

    def logits(self, images: Sequence[InstanceSet], pairs: Int[Tensor, "p 2"]) -> Float[Tensor, " p"]:
        """The head's answers; ``pairs`` count through the instances of all images."""
        logits: Tensor = self.head(torch.cat([pair_inputs(instances) for instances in images]), pairs)
        return logits


class PairHead(nn.Module):
    """Four 3x3 convolutions and two linear layers on the joined inputs of two instances; no normalisation."""

    def __init__(self, in_channels: int, channels: int, hidden: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(2 * in_channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv3 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv4 = nn.Conv2d(channels, channels, 3, stride=2, padding=1)
        self.fc1 = nn.Linear(channels * (ROI_SIZE // 2) ** 2, hidden)
        self.project = nn.Linear(hidden, 1)
        initialise(self, last=self.project)

    def forward(self, x: Float[Tensor, "n c 14 14"], pairs: Int[Tensor, "p 2"]) -> Float[Tensor, " p"]:
        """Logits (float32) of "the first of the pair lies above the second"; ``pairs`` index ``x``."""
        return self.project(self.features(x, pairs)).squeeze(1).float()

    def features(self, x: Float[Tensor, "n c 14 14"], pairs: Int[Tensor, "p 2"]) -> Float[Tensor, "p hidden"]:
        """What the last layer reads."""
        (firsts, above), (seconds, below) = (torch.unique(role, return_inverse=True) for role in pairs.unbind(dim=1))
        split = 2 * len(pairs) > SPLIT_FROM * (len(firsts) + len(seconds))
        halves = self.first_halves(x[firsts], x[seconds]) if split else (x[firsts], x[seconds])
        at_once = PAIRS_AT_ONCE.get(x.device.type, PAIRS_AT_ONCE["cuda"])
        hidden = []
        for group in torch.stack([above, below]).split(FLAT_AT_ONCE, dim=1):
            flat = [self.convolved(*halves, chunk, split) for chunk in group.split(at_once, dim=1)]
            hidden.append(self.fc1(torch.cat(flat)).relu_())
        return torch.cat(hidden)

    def convolved(
        self,
        firsts: Float[Tensor, "n c 14 14"],
        seconds: Float[Tensor, "m c 14 14"],
        pairs: Int[Tensor, "2 p"],
        split: bool,
    ) -> Float[Tensor, "p flat"]:
        """What ``fc1`` reads; ``split``: the instances have been through their halves of ``conv1`` already."""
        # index_select, because its gradient is added row by row, and that of indexing number by number
        first, second = firsts.index_select(0, pairs[0]), seconds.index_select(0, pairs[1])
        y = first.add_(second) if split else self.conv1(torch.cat([first, second], dim=1))
        for conv in (self.conv2, self.conv3, self.conv4):
            y = conv(y.relu_())  # in place: fresh memory for every activation costs as much as the addition
        return y.relu_().flatten(1)

    def first_halves(
        self, firsts: Float[Tensor, "n c 14 14"], seconds: Float[Tensor, "m c 14 14"]
    ) -> tuple[Tensor, Tensor]:
        """What each instance adds to ``conv1`` as first and as second of a pair: a convolution of joined channels is a
        sum of two, so it runs once per instance instead of once per pair.
        """
        above, below = self.conv1.weight.chunk(2, dim=1)
        return F.conv2d(firsts, above, self.conv1.bias, padding=1), F.conv2d(seconds, below, padding=1)


def initialise(head: nn.Module, last: nn.Linear) -> None:
    """Weights of a head of convolutions and linear layers as in the released code; biases 0, ``last`` almost 0."""
    for module in head.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear) and module is not last:  # drawn once: a seed keeps its weights
            nn.init.kaiming_uniform_(module.weight, a=1)
    nn.init.normal_(last.weight, std=0.01)
    for name, parameter in head.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(parameter)


def pair_inputs(instances: InstanceSet, inputs: Collection[str] = ("mask", "feature")) -> Float[Tensor, "n c 14 14"]:
    """Soft mask, max-pooled to the size of the RoI feature, and that feature, as far as ``inputs`` names them."""
    if instances.soft is None or instances.roi_features is None:
        raise ValueError("the pair head needs instances.soft and instances.roi_features; see OcclusionModel.requires")
    masks = F.max_pool2d(instances.soft[:, None], kernel_size=2).to(instances.roi_features.dtype)
    parts = {"mask": masks, "feature": instances.roi_features}
    return torch.cat([part for name, part in parts.items() if name in inputs], dim=1)


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
