"""SOGNet's relational embedding: who covers whom, from classes and boxes alone (Yang et al., AAAI 2020, "SOGNet: Scene
Overlap Graph Network for Panoptic Segmentation").

Shapes: N instances, T thing classes, P contested pixels.
    b_ij = ((x_j - x_i) / w_i, (y_j - y_i) / h_i, ln w_j / w_i, ln h_j / h_i)           box centres and sizes
    R_ij = sigmoid(P [relu(U c_i) * relu(V c_j) ; relu(W b_ij)])                        (N, N)
    O    = relu(R - R^T)                       O_ij > 0: i is covered by j, so j lies above i
    A'_i = A_i (1 - sigmoid(A_i) (O sigmoid(A))_i)                                      mask logits without the covered
The network's own panoptic head is per pixel; here the relation is the margin R_ji - R_ij of the common fusion.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from panoptic_occ.occlusion.base import OcclusionModel, TrainingExample
from panoptic_occ.ops.segment_matching import match_by_share
from panoptic_occ.structures.instances import InstanceSet
from panoptic_occ.structures.masks import PairStats
from panoptic_occ.structures.relation import Relation
from panoptic_occ.structures.target import Target
from panoptic_occ.thing.paste import LARGEST, place_soft, soft_logits


class RelationalEmbedding(OcclusionModel):
    """SOGNet's overlap graph, trained on the frozen base.

    ``class_channels``, ``box_channels``: width of the two embeddings.
    ``overlap_thr``: two annotations overlap when they share this part of the smaller mask.
    ``overlap_weight``: of the loss that teaches *whether* two instances overlap, relative to the one that teaches *who*
    lies above (10 in the released code).
    """

    requires: ClassVar[frozenset[str]] = frozenset({"soft"})

    def __init__(
        self,
        *,
        class_channels: int = 256,
        box_channels: int = 128,
        overlap_thr: float = 0.1,
        overlap_weight: float = 10.0,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        self.overlap_thr, self.overlap_weight = overlap_thr, overlap_weight
        things = self.categories.num_things
        self.first_class = nn.Linear(things, class_channels, bias=False)
        self.second_class = nn.Linear(things, class_channels, bias=False)
        self.box = nn.Linear(4, box_channels, bias=False)
        self.project = nn.Linear(class_channels + box_channels, 1, bias=False)
        for layer in (self.first_class, self.second_class, self.box, self.project):
            nn.init.kaiming_normal_(layer.weight)

    def head_outputs(self, instances: InstanceSet, stats: PairStats, wide: bool = False) -> dict[str, Tensor]:
        """``covered`` (N, N): R, the probability that the column covers the row."""
        return {"covered": self.covered(instances.boxes.float(), instances.labels)}

    def relate(self, instances: InstanceSet, stats: PairStats, head_outputs: Mapping[str, Tensor]) -> Relation:
        """Margin R^T - R on the pairs that count."""
        covered = head_outputs["covered"]
        return Relation(covered.T - covered, self.pairs(instances, stats))

    def covered(self, boxes: Float[Tensor, "n 4"], labels: Int[Tensor, " n"]) -> Float[Tensor, "n n"]:
        """R of all pairs."""
        classes = F.one_hot(labels, self.categories.num_things).to(boxes.dtype)
        first, second = F.relu(self.first_class(classes)), F.relu(self.second_class(classes))
        by_class, by_box = self.project.weight[0].split([first.shape[1], self.box.out_features])
        # P of the joined embeddings is a sum of two, and that of the classes a product of matrices
        logits: Tensor = (first * by_class) @ second.T + F.relu(self.box(box_offsets(boxes))) @ by_box
        return logits.sigmoid()

    def loss(self, examples: Sequence[TrainingExample], generator: torch.Generator) -> dict[str, Tensor]:
        """``loss_overlap``: mean squared error of O + O^T over the pairs, against whether they overlap; ``loss_order``:
        cross-entropy of A' over contested pixels."""
        nothing = torch.stack([parameter.sum() for parameter in self.parameters()]).sum() * 0  # with a graph to each
        squared, crossed, pairs, pixels = [nothing], [nothing], 0, 0
        for example in examples:
            first = first_of_each(example.matches)
            instances, matches = example.instances[first], example.matches[first]
            covered = self.covered(instances.boxes.float(), instances.labels)
            graph = F.relu(covered - covered.T)
            relation = example.target.relation[matches.cpu()].to(matches.device)
            smaller = torch.minimum(relation.area[:, None], relation.area[None, :]).clamp(min=1)
            overlaps = (relation.inter / smaller >= self.overlap_thr).float().triu(diagonal=1)
            upper = torch.ones_like(overlaps).triu(diagonal=1).bool()
            squared.append(((graph + graph.T - overlaps)[upper] ** 2).sum())
            pairs += int(upper.sum())
            logits, owner = contested_pixels(instances, matches, example.target)
            crossed.append(F.cross_entropy(uncovered(logits, graph).T, owner, reduction="sum"))
            pixels += len(owner)
        return {
            "loss_overlap": self.overlap_weight * torch.stack(squared).sum() / max(pairs, 1),
            "loss_order": torch.stack(crossed).sum() / max(pixels, 1),
        }


def box_offsets(boxes: Float[Tensor, "n 4"]) -> Float[Tensor, "n n 4"]:
    """b: centre of j relative to i in units of i's size, and the logarithms of the ratios of their sizes."""
    size = (boxes[:, 2:] - boxes[:, :2]).clamp(min=1)
    centre = (boxes[:, 2:] + boxes[:, :2]) / 2
    shift = (centre[None, :] - centre[:, None]) / size[:, None]
    scale = size.log()[None, :] - size.log()[:, None]
    return torch.cat([shift, scale], dim=2)


def uncovered(logits: Float[Tensor, "n p"], graph: Float[Tensor, "n n"]) -> Float[Tensor, "n p"]:
    """A': mask logits, moved towards 0 (negative ones, too, as published) where instances above have the pixel."""
    probs = logits.sigmoid()
    return logits * (1 - probs * (graph @ probs))


def first_of_each(matches: Int[Tensor, " n"]) -> Int[Tensor, " k"]:
    """Index of the first proposal of every annotation that has one."""
    _, first = np.unique(matches.cpu().numpy(), return_index=True)
    return torch.from_numpy(first).to(matches.device)


def contested_pixels(
    instances: InstanceSet, matches: Int[Tensor, " k"], target: Target
) -> tuple[Float[Tensor, "k p"], Int[Tensor, " p"]]:
    """Mask logits of every instance at the pixels that two or more annotated masks share and one of them owns, and the
    row of that owner; logits are ``-LARGEST`` outside an instance's window."""
    ids = target.panoptic.ids
    segments = match_by_share(target.masks.to("cpu"), target.labels.cpu(), replace(target.panoptic, ids=ids.cpu()))
    masks = target.masks[matches.cpu()].dense()
    owner = torch.full(ids.shape, -1, dtype=torch.int64, device=ids.device)
    for row, segment in enumerate(segments[matches.cpu()].tolist()):
        if segment:
            owner[ids == segment] = row
    where = (masks.sum(dim=0) >= 2) & (owner >= 0)
    rows = [torch.zeros((0, int(where.sum())), device=where.device)]
    for logit, box, (window, _) in zip(soft_logits(instances), instances.boxes, instances.masks, strict=True):
        full = torch.full(where.shape, -LARGEST, device=where.device)
        full[window] = place_soft(logit, box, window)
        rows.append(full[None, where])
    return torch.cat(rows), owner[where]
