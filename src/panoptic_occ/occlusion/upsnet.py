"""UPSNet's panoptic head as a relation: every contested pixel goes to the highest sum of semantic and mask logits
(Xiong et al., CVPR 2019, "UPSNet: A Unified Panoptic Segmentation Network").  It has no parameters.

Shapes: N instances, C classes, image (H, W).
    X       (C, H, W)   semantic logits, thing classes included
    Y_i     (H, W)      mask logits of instance i, placed into its box, 0 outside
    inst_i = X[c_i] + Y_i inside M_i;  a pixel belongs to the largest of inst_1..n, the stuff channels of X and void
Before that, non-maximum suppression over all classes and the removal of masks that others of their class cover.
Here an instance never leaves its own mask, and a segment whose pixels the semantic map calls stuff stays a thing.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from panoptic_occ.errors import ConfigError
from panoptic_occ.masks import PairStats, intersections
from panoptic_occ.occlusion.base import OcclusionModel
from panoptic_occ.occlusion.suppression import Suppression, check_suppression, duplicates
from panoptic_occ.structures import NO_CONTEXT, VOID_LABEL, Context, InstanceSet, Relation
from panoptic_occ.thing.paste import place_soft

STUFF, VOID = -1, -2
LARGEST = 30.0  # a probability of exactly 0 or 1 has no logit


class PixelArgmax(OcclusionModel):
    """The per-pixel choice of UPSNet's panoptic head, among pixels that lie in a mask.

    ``void``: also offer the void channel, max over thing classes of X minus max over instances of X[c_i]; it only means
    something for a base that was trained to use it.  ``nms``, ``nms_thr``: suppression by IoU over all classes.
    ``same_class_thr``: remove a mask of which better ones of its class cover a larger share; None: none.
    """

    requires: ClassVar[frozenset[str]] = frozenset({"soft", "semantic_logits"})

    def __init__(
        self,
        *,
        void: bool = False,
        nms: Suppression = "box",
        nms_thr: float = 0.5,
        same_class_thr: float | None = 0.3,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        check_suppression(nms, nms_thr)
        if same_class_thr is not None and not 0 <= same_class_thr <= 1:
            raise ConfigError(f"occlusion.same_class_thr={same_class_thr!r}: must be a share between 0 and 1, or null")
        self.void = void
        self.nms, self.nms_thr, self.same_class_thr = nms, nms_thr, same_class_thr

    def forward(self, instances: InstanceSet, stats: PairStats, context: Context = NO_CONTEXT) -> Relation:
        """Disjoint claims; the margin is the share of the common pixels by which the row is ahead."""
        duplicate_of = self.removed(instances, stats)
        stands = duplicate_of < 0
        semantic = self._logits(context)
        owner = self.owner(instances, semantic, stands)
        things = self.categories.num_things
        stuff = (semantic[things:].argmax(dim=0) + things).masked_fill(owner == VOID, VOID_LABEL)
        parts = [(crop & (owner[window] == i)).flatten() for i, (window, crop) in enumerate(instances.masks)]
        pixels = torch.cat(parts) if parts else instances.masks.pixels
        claims = replace(instances.masks, pixels=pixels)
        valid = self.pairs(instances, stats) & stands & stands[:, None]
        won = intersections(claims, instances.masks, valid.cpu())
        margin = torch.where(valid, (won - won.T) / stats.inter.clamp(min=1), 0)
        return Relation(margin, valid, claims=claims, duplicate_of=duplicate_of, stuff=stuff)

    def removed(self, instances: InstanceSet, stats: PairStats) -> Int[Tensor, " n"]:
        """The better one for which each instance leaves before the pixels are asked; -1: it stays."""
        found = duplicates(instances, stats, self.nms, self.nms_thr)
        if self.same_class_thr is None:
            return found
        covered = torch.zeros(self.categories.num_things, *instances.masks.size, dtype=torch.bool)
        standing = torch.zeros(len(instances), dtype=torch.bool)
        items, labels = list(instances.masks), instances.labels.cpu()
        for i in torch.argsort(instances.scores, descending=True, stable=True).tolist():
            if found[i] >= 0:
                continue
            window, crop = items[i]
            crop, below = crop.cpu(), covered[labels[i]][window]
            if int((below & crop).sum()) > self.same_class_thr * int(crop.sum()):
                rivals = torch.where(standing & (labels == labels[i]), stats.inter[i].cpu(), 0)
                found[i] = rivals.argmax()
            else:
                standing[i] = True
                below |= crop
        return found

    def owner(
        self, instances: InstanceSet, semantic: Float[Tensor, "c h w"], stands: Bool[Tensor, " n"] | None = None
    ) -> Int[Tensor, "h w"]:
        """The instance that every pixel goes to, ``STUFF`` or ``VOID``; of equal ones the better scored.

        ``stands``: the instances that are offered pixels, all by default.
        """
        if instances.soft is None:
            raise ValueError("the per-pixel choice needs instances.soft; see OcclusionModel.requires")
        things = self.categories.num_things
        best = semantic[things:].amax(dim=0)
        owner = torch.full(best.shape, STUFF, device=best.device)
        if self.void:
            seen = torch.zeros_like(best)  # X of instances is 0 outside their boxes
            for i, (label, (window, _)) in enumerate(zip(instances.labels.tolist(), instances.masks, strict=True)):
                if stands is not None and not stands[i]:
                    continue
                seen[window] = torch.maximum(seen[window], semantic[label][window])
            unknown = semantic[:things].amax(dim=0) - seen
            owner = torch.where(unknown > best, VOID, owner)
            best = torch.maximum(best, unknown)
        logits = instances.soft.float().logit().clamp(-LARGEST, LARGEST)
        items = list(instances.masks)
        for i in torch.argsort(instances.scores, descending=True, stable=True).tolist():
            if stands is not None and not stands[i]:
                continue
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
