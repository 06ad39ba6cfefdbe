"""UPSNet's panoptic head as a relation: every contested pixel goes to the highest sum of semantic and mask logits
(Xiong et al., CVPR 2019, "UPSNet: A Unified Panoptic Segmentation Network").  It has no parameters.

Shapes: N instances, C classes, image (H, W).
    X       (C, H, W)   semantic logits, thing classes included
    Y_i     (H, W)      mask logits of instance i, placed into its box, 0 outside
    inst_i = X[c_i] + Y_i inside M_i;  a pixel belongs to the largest of inst_1..n, the stuff channels of X and void
Here an instance never leaves its own mask, and what stuff wins is filled from the semantic map like all free pixels.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from panoptic_occ.errors import ConfigError
from panoptic_occ.masks import PairStats, intersections
from panoptic_occ.occlusion.base import OcclusionModel
from panoptic_occ.structures import NO_CONTEXT, Context, InstanceSet, Relation
from panoptic_occ.thing.paste import place_soft

STUFF, VOID = -1, -2
LARGEST = 30.0  # a probability of exactly 0 or 1 has no logit


class PixelArgmax(OcclusionModel):
    """The per-pixel choice of UPSNet's panoptic head, among pixels that lie in a mask.

    ``void``: also offer the void channel, max over thing classes of X minus max over instances of X[c_i]; it only means
    something for a base that was trained to use it.
    """

    requires: ClassVar[frozenset[str]] = frozenset({"soft", "semantic_logits"})

    def __init__(self, *, void: bool = False, **common: Any) -> None:
        super().__init__(**common)
        self.void = void

    def forward(self, instances: InstanceSet, stats: PairStats, context: Context = NO_CONTEXT) -> Relation:
        """Disjoint claims; the margin is the share of the common pixels by which the row is ahead."""
        owner = self.owner(instances, self._logits(context))
        parts = [(crop & (owner[window] == i)).flatten() for i, (window, crop) in enumerate(instances.masks)]
        pixels = torch.cat(parts) if parts else instances.masks.pixels
        claims = replace(instances.masks, pixels=pixels)
        valid = self.pairs(instances, stats)
        won = intersections(claims, instances.masks, valid.cpu())
        margin = torch.where(valid, (won - won.T) / stats.inter.clamp(min=1), 0)
        return Relation(margin, valid, claims=claims)

    def owner(self, instances: InstanceSet, semantic: Float[Tensor, "c h w"]) -> Int[Tensor, "h w"]:
        """The instance that every pixel goes to, ``STUFF`` or ``VOID``; of equal ones the better scored."""
        if instances.soft is None:
            raise ValueError("the per-pixel choice needs instances.soft; see OcclusionModel.requires")
        things = self.categories.num_things
        best = semantic[things:].amax(dim=0)
        owner = torch.full(best.shape, STUFF, device=best.device)
        if self.void:
            seen = torch.zeros_like(best)  # X of instances is 0 outside their boxes
            for label, (window, _) in zip(instances.labels.tolist(), instances.masks, strict=True):
                seen[window] = torch.maximum(seen[window], semantic[label][window])
            unknown = semantic[:things].amax(dim=0) - seen
            owner = torch.where(unknown > best, VOID, owner)
            best = torch.maximum(best, unknown)
        logits = instances.soft.float().logit().clamp(-LARGEST, LARGEST)
        items = list(instances.masks)
        for i in torch.argsort(instances.scores, descending=True, stable=True).tolist():
            window, crop = items[i]
            mine = semantic[int(instances.labels[i])][window] + place_soft(logits[i], instances.boxes[i], window)
            wins = crop & (mine > best[window])
            best[window] = torch.where(wins, mine, best[window])
            owner[window] = torch.where(wins, i, owner[window])
        return owner

    def _logits(self, context: Context) -> Float[Tensor, "c h w"]:
        semantic = context.semantic
        if semantic is None or semantic.logits is None or semantic.first_label != 0:
            raise ConfigError(
                "occlusion=upsnet reads semantic logits of every thing class, and this stuff branch has none; choose "
                "one with things=dense, for example stuff=pfpn_dense or stuff=ups"
            )
        return semantic.logits
