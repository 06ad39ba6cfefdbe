"""Class prior: of two classes, the one that lay in front more often in the training set lies in front."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from jaxtyping import Int
from torch import Tensor

from panoptic_occ.common.errors import ConfigError
from panoptic_occ.common.kinds import NotNegative, Scope
from panoptic_occ.config.values import checked
from panoptic_occ.occlusion.base import NO_CONTEXT, Context, OcclusionModel
from panoptic_occ.structures.instances import InstanceSet
from panoptic_occ.structures.masks import PairStats
from panoptic_occ.structures.relation import Relation


class ClassPrior(OcclusionModel):
    """Counts of the training set decide, with ``prior_count`` imaginary pairs added to either order of two classes.
    Pairs of one class, and of classes that never overlapped or overlapped as often either way, go by score."""

    requires: ClassVar[frozenset[str]] = frozenset({"class_table"})
    scope: ClassVar[Scope] = Scope.RESULT
    table: Int[Tensor, "t t"] | None

    @checked("occlusion")
    def __init__(self, *, prior_count: NotNegative = 1.0, **common: Any) -> None:
        super().__init__(**common)
        self.prior_count = prior_count
        self.register_buffer("table", None)

    def use_class_table(self, table: Int[Tensor, "t t"]) -> None:
        """Keeps the counts: ``table[a, b]`` pairs with class a in front of class b.  ValueError unless it is (T, T) for
        the T thing classes of ``categories`` if there are any."""
        things = len(table) if self._categories is None else self._categories.num_things
        if table.shape != (things, things):
            raise ValueError(f"the class table has shape {tuple(table.shape)}, {things} thing classes need another")
        self.table = table

    def forward(self, instances: InstanceSet, stats: PairStats, context: Context = NO_CONTEXT) -> Relation:
        """Margin P(row in front | the two classes) - 1/2."""
        if self.table is None:
            raise ConfigError(
                "occlusion=class_prior has no counts of a training set; give them with use_class_table(table), where "
                "table[a, b] counts pairs with thing class a in front of b"
            )
        front = self.table[instances.labels[:, None], instances.labels[None, :]]
        lead, total = front - front.T, front + front.T
        margin = lead / (2 * (total + 2 * self.prior_count)).clamp(min=1)
        valid = self.pairs(instances, stats) & (lead != 0)
        return Relation(torch.where(valid, margin, 0), valid)
