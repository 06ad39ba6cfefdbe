"""OCFusion: a binary question per ordered pair of instances (Lazarow et al., CVPR 2020, "Learning Instance Occlusion
for Panoptic Segmentation").

Shapes: N instances, P ordered pairs, C channels of the RoI features, masks 28x28, features 14x14.
    x_i  = [maxpool2(m_i), f_i]                  (C+1, 14, 14)   soft mask of the own class, raw RoIAlign feature
    o_ij = head([x_i, x_j])                      logit of "i lies above j"
Section 3.3 gives the head, section 3.2 the targets, Algorithm 1 (in ``fusion.engine``) the fusion.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from panoptic_occ.errors import ConfigError, did_you_mean
from panoptic_occ.masks import PairStats
from panoptic_occ.occlusion.base import OcclusionModel, TrainingExample
from panoptic_occ.structures import InstanceSet, Relation

ROI_SIZE = 14
PAIRS_AT_ONCE = 512  # 206 MB per activation in float32 at 512 channels
SPLIT_FROM = 2.5  # pairs per instance from which the first convolution is cheaper once per instance than once per pair
SYMMETRIES = ("raw", "avg")


class OCFusion(OcclusionModel):
    """The pairwise occlusion head of OCFusion.

    ``channels``, ``hidden``: width of the convolutions and of the fully connected layer; None: 2 and 4 times the width
    of the features (512 and 1024 in the paper).  ``pairs_per_image``: training pairs, each seen in both directions
    (B = 128).  ``logit_thr``: the logit that the later instance must exceed to lie above (0 in the paper, 0.5 in the
    released code).  ``sym``: ``raw`` asks only for the later instance (the paper), ``avg`` takes (o_ij - o_ji) / 2.
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
        logit_thr: float = 0.0,
        sym: Literal["raw", "avg"] = "raw",
        **common: Any,
    ) -> None:
        super().__init__(in_channels=in_channels, **common)
        if sym not in SYMMETRIES:
            raise ConfigError(f"occlusion.sym={sym!r} is unknown; {did_you_mean(sym, SYMMETRIES)}")
        if pairs_per_image < 1:
            raise ConfigError(f"occlusion.pairs_per_image={pairs_per_image}: at least one pair is needed to train")
        self.pairs_per_image = pairs_per_image
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
        return {"logits": pair_logits(self.head, pair_inputs(instances), asked)}

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
        ranks = torch.argsort(instances.scores, descending=True, stable=True).argsort()
        return self.pairs(instances, stats) & (ranks[:, None] > ranks[None, :])

    def loss(self, examples: Sequence[TrainingExample], generator: torch.Generator) -> dict[str, Tensor]:
        """Binary cross-entropy, mean over all ordered pairs of the batch; 0 with a graph when there is none."""
        inputs, pairs, targets, offset = [], [], [], 0
        for example in examples:
            chosen, above = training_pairs(example, self.sig_ratio, self.pairs_per_image, generator)
            inputs.append(pair_inputs(example.instances))
            pairs.append(chosen + offset)
            targets.append(above)
            offset += len(example.instances)
        logits = self.head(torch.cat(inputs), torch.cat(pairs))
        total = F.binary_cross_entropy_with_logits(logits, torch.cat(targets), reduction="sum")
        return {"loss_occlusion": total / max(len(logits), 1)}


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
        for conv in (self.conv1, self.conv2, self.conv3, self.conv4):
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
        nn.init.kaiming_uniform_(self.fc1.weight, a=1)
        nn.init.normal_(self.project.weight, std=0.01)
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(self, x: Float[Tensor, "n c 14 14"], pairs: Int[Tensor, "p 2"]) -> Float[Tensor, " p"]:
        """Logits (float32) of "the first of the pair lies above the second"; ``pairs`` index ``x``."""
        used, pairs = torch.unique(pairs, return_inverse=True)
        x = x[used]
        halves = self.first_halves(x) if len(pairs) > SPLIT_FROM * len(x) else None
        parts = []
        for chunk in torch.split(pairs, PAIRS_AT_ONCE):
            above, below = chunk.unbind(dim=1)
            if halves is None:
                y = self.conv1(torch.cat([x[above], x[below]], dim=1))
            else:
                y = halves[0][above] + halves[1][below]
            y = F.relu(self.conv2(F.relu(y)))
            y = F.relu(self.conv4(F.relu(self.conv3(y))))
            parts.append(self.project(F.relu(self.fc1(y.flatten(1)))).squeeze(1))
        return torch.cat(parts).float()

    def first_halves(self, x: Float[Tensor, "n c 14 14"]) -> tuple[Tensor, Tensor]:
        """What each instance adds to ``conv1`` as first and as second of a pair: a convolution of joined channels is a
        sum of two, so it runs once per instance instead of once per pair.
        """
        above, below = self.conv1.weight.chunk(2, dim=1)
        return F.conv2d(x, above, self.conv1.bias, padding=1), F.conv2d(x, below, padding=1)


def pair_logits(head: PairHead, x: Float[Tensor, "n c 14 14"], asked: Bool[Tensor, "n n"]) -> Float[Tensor, "n n"]:
    """The head's logits of the asked ordered pairs, NaN elsewhere."""
    logits = torch.full(asked.shape, torch.nan, device=asked.device)
    if asked.any():
        logits[asked] = head(x, asked.nonzero())
    return logits


def pair_inputs(instances: InstanceSet) -> Float[Tensor, "n c+1 14 14"]:
    """Soft mask, max-pooled to the size of the RoI feature, on top of that feature."""
    if instances.soft is None or instances.roi_features is None:
        raise ValueError("the pair head needs instances.soft and instances.roi_features; see OcclusionModel.requires")
    masks = F.max_pool2d(instances.soft[:, None], kernel_size=2)
    return torch.cat([masks.to(instances.roi_features.dtype), instances.roi_features], dim=1)


def training_pairs(
    example: TrainingExample, sig_ratio: float, limit: int, generator: torch.Generator
) -> tuple[Int[Tensor, "p 2"], Float[Tensor, " p"]]:
    """Ordered pairs of proposals and whether the first lies above (1.0) or below (0.0) the second.

    A pair counts when the two proposals stand for different annotations of known order and their predicted masks
    overlap significantly (either ratio: with both directions emitted, the directional rule gives the same pairs).  At
    most ``limit`` unordered pairs are drawn uniformly; the second half of the rows is the first half swapped.
    """
    matches = example.matches
    order = example.target.relation.matrix(sig_ratio).to(matches.device)
    if len(order) == 0:
        return matches.new_zeros((0, 2)), torch.zeros(0, device=matches.device)
    above = order[matches[:, None], matches[None, :]]  # -1 for proposals of the same annotation
    candidates = (example.stats.significant(sig_ratio) & (above >= 0)).triu(diagonal=1).nonzero()
    if len(candidates) > limit:
        chosen = torch.randperm(len(candidates), generator=generator)[:limit]
        candidates = candidates[chosen.to(candidates.device)]
    targets = above[candidates[:, 0], candidates[:, 1]].float()
    return torch.cat([candidates, candidates.flip(1)]), torch.cat([targets, 1 - targets])
