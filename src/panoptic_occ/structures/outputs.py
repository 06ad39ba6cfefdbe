"""The network: backbone, thing branch, stuff branch and occlusion module, wired together without any framework."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from panoptic_occ.structures.instances import InstanceSet, SemanticMap
from panoptic_occ.structures.masks import PairStats


@dataclass(frozen=True, eq=False)
class BaseOutput:
    """What the base sees in one image: ranked instances, their pair counts, and the stuff.

    ``answers``: by occlusion method, what its network said of these instances, when they come from a file.
    """

    instances: InstanceSet
    stats: PairStats
    semantic: SemanticMap
    answers: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)

    def above(self, conf_thr: float) -> BaseOutput:
        """Only the instances with ``score >= conf_thr``, which come first."""
        n = int((self.instances.scores >= conf_thr).sum())
        if n == len(self.instances):
            return self
        stats = PairStats(self.stats.area[:n], self.stats.inter[:n, :n])
        answers = {
            method: {name: tensor[(slice(n),) * tensor.ndim] for name, tensor in named.items()}
            for method, named in self.answers.items()
        }
        return replace(self, instances=self.instances[torch.arange(n)], stats=stats, answers=answers)
