"""Area order: the smaller of two overlapping masks lies on top, the strongest rule without parameters on COCO."""

from __future__ import annotations

from typing import Any, ClassVar

from panoptic_occ.common.kinds import Scope
from panoptic_occ.occlusion.base import NO_CONTEXT, Context, OcclusionModel
from panoptic_occ.structures.instances import InstanceSet
from panoptic_occ.structures.masks import PairStats
from panoptic_occ.structures.relation import Relation


class AreaOrder(OcclusionModel):
    """The smaller mask of a pair lies on top, with ``smaller_on_top=False`` the larger one; equal areas go by score."""

    scope: ClassVar[Scope] = Scope.RESULT

    def __init__(self, *, smaller_on_top: bool = True, **common: Any) -> None:
        super().__init__(**common)
        self.smaller_on_top = smaller_on_top

    def forward(self, instances: InstanceSet, stats: PairStats, context: Context = NO_CONTEXT) -> Relation:
        """Margin: the difference of the two areas in pixels."""
        closeness = -stats.area if self.smaller_on_top else stats.area
        margin = (closeness[:, None] - closeness[None, :]).float()  # subtracted as integers: a float32 would round
        return Relation(margin, self.pairs(instances, stats), value=closeness.float(), transitive=True)
