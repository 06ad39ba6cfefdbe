"""OCFusion: a binary question per ordered pair of instances (Lazarow et al., CVPR 2020, "Learning Instance Occlusion
for Panoptic Segmentation").

Shapes: N instances, P ordered pairs, C channels of the RoI features, masks 28x28, features 14x14.
    x_i  = [maxpool2(m_i), f_i]                  (C+1, 14, 14)   soft mask of the predicted class, raw RoIAlign feature
    o_ij = head([x_i, x_j])                      logit of "i lies above j"
Section 3.3 gives the head, section 3.2 the targets (``heads.pairs``), Algorithm 1 (``fusion.engine``) the fusion.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from panoptic_occ.common.kinds import Scope
from panoptic_occ.config.values import checked
from panoptic_occ.occlusion.heads.pairs import PairOrder, later_rows
from panoptic_occ.occlusion.heads.roi_head import PairHead, roi_inputs
from panoptic_occ.structures.instances import InstanceSet
from panoptic_occ.structures.masks import PairStats
from panoptic_occ.structures.relation import Relation

Symmetry = Literal["raw", "avg"]


class OCFusion(PairOrder):
    """The pairwise occlusion head of OCFusion.

    ``channels``, ``hidden``: width of the convolutions and of the fully connected layer; None: 2 and 4 times the width
    of the features (512 and 1024 in the paper).
    ``logit_thr``: the logit that the later instance must exceed to lie above (0 in the paper, 0.5 in the released
    code).
    ``sym``: ``raw`` reads the logit of the later instance only (the paper), ``avg`` takes (o_ij - o_ji) / 2.
    """

    @checked("occlusion")
    def __init__(
        self,
        *,
        in_channels: int,
        channels: int | None = None,
        hidden: int | None = None,
        logit_thr: Annotated[float, Scope.RESULT] = 0.0,
        sym: Annotated[Symmetry, Scope.RESULT] = "raw",
        **common: Any,
    ) -> None:
        super().__init__(in_channels=in_channels, **common)
        self.logit_thr, self.sym = logit_thr, sym
        self.head = PairHead(in_channels + 1, channels or 2 * in_channels, hidden or 4 * in_channels)

    @property
    def later_only(self) -> bool:
        """As in the paper."""
        return self.sym == "raw"

    def relate(self, instances: InstanceSet, stats: PairStats, head_outputs: Mapping[str, Tensor]) -> Relation:
        """Margin by which the logit exceeds ``logit_thr``, on the pairs that the fusion can read."""
        pairs, logits = self.selected_pairs(instances, stats), head_outputs["logits"]
        if self.later_only:
            return Relation(torch.where(pairs, logits - self.logit_thr, 0), pairs, antisymmetric=False)
        # the threshold stays a hurdle for the later instance, so it counts with opposite sign in the other direction
        hurdle = torch.where(later_rows(instances), self.logit_thr, -self.logit_thr)
        return Relation(torch.where(pairs, (logits - logits.T) / 2 - hurdle, 0), pairs)

    def logits(self, images: Sequence[InstanceSet], pairs: Int[Tensor, "p 2"]) -> Float[Tensor, " p"]:
        """o of every pair."""
        return self.head(torch.cat([roi_inputs(instances) for instances in images]), pairs)
