"""Score order: no relation at all, the better score keeps the pixels ("fusion by confidence", Kirillov et al. 2019)."""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from panoptic_occ.common.kinds import Scope, Share
from panoptic_occ.config.values import checked
from panoptic_occ.occlusion.base import NO_CONTEXT, Context, OcclusionModel
from panoptic_occ.ops.suppression import Suppression, duplicates
from panoptic_occ.structures.instances import InstanceSet
from panoptic_occ.structures.masks import PairStats
from panoptic_occ.structures.relation import Relation


class ScoreOrder(OcclusionModel):
    """Decides no pair, so that the fusion goes by score.

    ``nms``, ``nms_thr``: of two instances of any class whose ``box`` or ``mask`` IoU is larger, only the better scored
    takes part, as in mmdetection's heuristic fusion.
    """

    scope: ClassVar[Scope] = Scope.RESULT

    @checked("occlusion")
    def __init__(self, *, nms: Suppression = "none", nms_thr: Share = 0.5, **common: Any) -> None:
        super().__init__(**common)
        self.nms, self.nms_thr = nms, nms_thr

    def forward(self, instances: InstanceSet, stats: PairStats, context: Context = NO_CONTEXT) -> Relation:
        """Margin 0 and no valid pair; ``value`` is the score."""
        margin = torch.zeros(stats.inter.shape, device=stats.inter.device)
        suppressor = None if self.nms == "none" else duplicates(instances, stats, self.nms, self.nms_thr)
        valid = torch.zeros_like(margin, dtype=torch.bool)
        return Relation(margin, valid, value=instances.scores, transitive=True, duplicate_of=suppressor)
