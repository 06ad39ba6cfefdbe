"""What the base network says of one image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from panoptic_occ.structures.instances import InstanceSet
from panoptic_occ.structures.masks import PairStats
from panoptic_occ.structures.semantic_map import SemanticMap


@dataclass(frozen=True, eq=False)
class BaseOutput:
    """Detections of one image, best score first, their pair counts, and the stuff.

    ``head_outputs``: by occlusion method, ``OcclusionModel.head_outputs`` of these detections, when they were stored.
    """

    instances: InstanceSet
    stats: PairStats
    semantic: SemanticMap
    head_outputs: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)

    def above(self, conf_thr: float) -> BaseOutput:
        """Only the instances with ``score >= conf_thr``, which come first."""
        n = int((self.instances.scores >= conf_thr).sum())
        if n == len(self.instances):
            return self
        stats = PairStats(self.stats.area[:n], self.stats.inter[:n, :n])
        head_outputs = {
            method: {name: tensor[(slice(n),) * tensor.ndim] for name, tensor in named.items()}
            for method, named in self.head_outputs.items()
        }
        return replace(self, instances=self.instances[torch.arange(n)], stats=stats, head_outputs=head_outputs)
