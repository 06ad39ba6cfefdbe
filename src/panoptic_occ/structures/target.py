"""The annotations of one image."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from panoptic_occ.structures.masks import MaskCrops
from panoptic_occ.structures.panoptic_map import PanopticMap
from panoptic_occ.structures.relation import GroundTruthRelation
from panoptic_occ.structures.semantic_map import VOID_LABEL


@dataclass(frozen=True, eq=False)
class Target:
    """Annotations of one image, all in one frame (the network input in training, the original image in evaluation).

    ``boxes`` xyxy, ``labels`` and ``masks`` of the K non-crowd thing instances, annotated in full, so masks overlap.
    ``panoptic``: the ground-truth map, crowds included.  ``instance_ids``: dataset ids of the K instances.
    ``relation``: counts from the original image, only re-indexed when a crop removes instances.

    >>> import torch
    >>> from panoptic_occ import GroundTruthRelation, MaskCrops, PanopticMap, Segment, Target
    >>> counts = torch.tensor([2])
    >>> cat = MaskCrops.from_dense(torch.tensor([[[True, True, False]]]))
    >>> panoptic = PanopticMap(torch.tensor([[7, 7, 0]]), (Segment(7, label=0, isthing=True, area=2),))
    >>> relation = GroundTruthRelation(counts, counts, counts[None], counts[None])
    >>> target = Target(cat.boxes, torch.tensor([0]), cat, panoptic, relation, torch.tensor([501]))
    >>> target.semantic().tolist()
    [[0, 0, -1]]
    """

    boxes: Float[Tensor, "k 4"]
    labels: Int[Tensor, " k"]
    masks: MaskCrops
    panoptic: PanopticMap
    relation: GroundTruthRelation
    instance_ids: Int[Tensor, " k"]

    def semantic(self) -> Int[Tensor, "h w"]:
        """Contiguous category of every pixel, ``VOID_LABEL`` where there is none (int64)."""
        ids = self.panoptic.ids.long()
        present, inverse = torch.unique(ids, return_inverse=True)
        label_of = {segment.id: segment.label for segment in self.panoptic.segments}
        labels = [label_of.get(i, VOID_LABEL) for i in present.tolist()]
        return torch.tensor(labels, dtype=torch.int64, device=ids.device)[inverse]

    def to(self, device: torch.device | str) -> Target:
        """The same target on ``device``."""
        panoptic = replace(self.panoptic, ids=self.panoptic.ids.to(device))
        moved = {name: value.to(device) for name, value in vars(self).items() if name != "panoptic"}
        return Target(**moved, panoptic=panoptic)
