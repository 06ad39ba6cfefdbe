"""Score order: no relation at all, the better score keeps the pixels ("fusion by confidence", Kirillov et al. 2019)."""

from __future__ import annotations

import torch

from panoptic_occ.masks import PairStats
from panoptic_occ.occlusion.base import OcclusionModel
from panoptic_occ.structures import NO_CONTEXT, Context, InstanceSet, Relation


class ScoreOrder(OcclusionModel):
    """Decides no pair, so that the fusion's own order (by score) stands."""

    def forward(self, instances: InstanceSet, stats: PairStats, context: Context = NO_CONTEXT) -> Relation:
        """Margin 0 and no valid pair; ``value`` is the score."""
        margin = torch.zeros(stats.inter.shape, device=stats.inter.device)
        return Relation(margin, torch.zeros_like(margin, dtype=torch.bool), value=instances.scores, transitive=True)
