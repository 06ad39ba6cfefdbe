"""OCFusion: a binary question per ordered pair of instances (Lazarow et al., CVPR 2020, "Learning Instance Occlusion
for Panoptic Segmentation").

Shapes: N instances, P ordered pairs, C channels of the RoI features, masks 28x28, features 14x14.
    x_i  = [maxpool2(m_i), f_i]                  (C+1, 14, 14)   soft mask of the own class, raw RoIAlign feature
    o_ij = head([x_i, x_j])                      logit of "i lies above j"
Section 3.3 gives the head, section 3.2 the targets, Algorithm 1 (in ``fusion.engine``) the fusion.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from panoptic_occ.common.errors import ConfigError, did_you_mean
from panoptic_occ.common.kinds import Scope
from panoptic_occ.occlusion.base import OcclusionModel, TrainingExample
from panoptic_occ.occlusion.baselines.ground_truth import RULES
from panoptic_occ.occlusion.heads.pairs import later_rows, pair_bce, pair_matrix
from panoptic_occ.occlusion.heads.roi_head import PairHead, roi_inputs
from panoptic_occ.structures.instances import InstanceSet
from panoptic_occ.structures.masks import PairStats
from panoptic_occ.structures.relation import Relation
from panoptic_occ.structures.sample import Target

SYMMETRIES = ("raw", "avg")


class OCFusion(OcclusionModel):
    """The pairwise occlusion head of OCFusion.

    ``channels``, ``hidden``: width of the convolutions and of the fully connected layer; None: 2 and 4 times the width
    of the features (512 and 1024 in the paper).  ``pairs_per_image``: training pairs, each seen in both directions
    (B = 128).  ``logit_thr``: the logit that the later instance must exceed to lie above (0 in the paper, 0.5 in the
    released code).  ``sym``: ``raw`` asks only for the later instance (the paper), ``avg`` takes (o_ij - o_ji) / 2.
    ``gt_rule``: which order of two annotations it learns, see ``GroundTruthRelation.matrix``.
    """

    requires: ClassVar[frozenset[str]] = frozenset({"soft", "roi_features"})

    def __init__(
        self,
        *,
        in_channels: int,
        channels: int | None = None,
        hidden: int | None = None,
        pairs_per_image: int = 128,
        gt_rule: Literal["majority", "delta"] = "majority",
        logit_thr: Annotated[float, Scope.RESULT] = 0.0,
        sym: Annotated[Literal["raw", "avg"], Scope.RESULT] = "raw",
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

    def trainable_annotations(self, target: Target) -> Bool[Tensor, " k"]:
        """Annotations of which the order to another one is known."""
        return (target.relation.matrix(self.sig_ratio, self.gt_rule) >= 0).any(dim=1)

    def loss(self, examples: Sequence[TrainingExample], generator: torch.Generator) -> dict[str, Tensor]:
        """Binary cross-entropy over the ordered pairs of the batch, see ``pair_bce``."""
        limit = self.pairs_per_image
        loss = pair_bce(self.logits, examples, self.sig_ratio, limit, generator, self.gt_rule)
        return {"loss_occlusion": loss}

    def logits(self, images: Sequence[InstanceSet], pairs: Int[Tensor, "p 2"]) -> Float[Tensor, " p"]:
        """The head's answers; ``pairs`` count through the instances of all images."""
        logits: Tensor = self.head(torch.cat([roi_inputs(instances) for instances in images]), pairs)
        return logits
