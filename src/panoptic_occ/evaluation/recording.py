"""What a network says once, so that thresholds, switches and policies can be applied to it later."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from panoptic_occ.fusion.erasing import component_confidence
from panoptic_occ.fusion.policy import Dilation
from panoptic_occ.occlusion.base import OcclusionModel
from panoptic_occ.structures.base_output import BaseOutput

FROM_NETWORK = frozenset({"soft", "roi_features"})


@dataclass(frozen=True)
class Recording:
    """What an evaluation asks for beyond its own need.

    ``conf_thr``: lowest score of the detections.  ``dilations``: those for which the confidence of the stuff components
    is recorded (REFINE's unknown erasing), if the stuff branch has probabilities.
    """

    conf_thr: float = 1.0
    dilations: tuple[Dilation, ...] = ()

    @property
    def requires(self) -> frozenset[str]:
        """What the base must compute for it."""
        return frozenset({"semantic_logits"} if self.dilations else ())

    def complete(self, output: BaseOutput, models: Mapping[str, OcclusionModel]) -> BaseOutput:
        """``output`` with the head outputs of ``models`` about all pairs and the confidences of the stuff."""
        outputs = {
            name: model.head_outputs(output.instances, output.stats, wide=True) for name, model in models.items()
        }
        semantic = output.semantic
        if semantic.logits is not None:
            confidence = {dilation.name: component_confidence(semantic, dilation) for dilation in self.dilations}
            semantic = replace(semantic, confidence={**semantic.confidence, **confidence})
        return replace(output, semantic=semantic, head_outputs={**output.head_outputs, **outputs})


def has_head_outputs(model: OcclusionModel) -> bool:
    """Whether an order reads what only the network gives, and what the network says of it can be recorded."""
    return bool(model.requires & FROM_NETWORK) and type(model).head_outputs is not OcclusionModel.head_outputs
