"""UPSNet's panoptic head as a relation: every contested pixel goes to the highest sum of semantic and mask logits
(Xiong et al., CVPR 2019, "UPSNet: A Unified Panoptic Segmentation Network").  It has no parameters.

Shapes: N instances, C classes, image (H, W).
    X       (C, H, W)   semantic logits, thing classes included
    Y_i     (H, W)      mask logits of instance i, placed into its box, 0 outside
    inst_i = X[c_i] + Y_i inside the box of i, 0 outside (here nothing outside its mask, see ``reach``);  a pixel
    belongs to the largest of inst_1..n, the stuff channels of X and void
Before that, non-maximum suppression over all classes and the removal of masks that others of their class cover; after
it, an instance whose pixels are mostly of one kind of stuff in X becomes that stuff.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Bool, Float, Int
from scipy import ndimage
from torch import Tensor

from panoptic_occ.common.errors import ConfigError
from panoptic_occ.common.kinds import Scope, Share
from panoptic_occ.config.values import checked
from panoptic_occ.occlusion.base import NO_CONTEXT, Context, OcclusionModel
from panoptic_occ.ops.claims import owned_parts
from panoptic_occ.ops.suppression import Suppression, duplicates
from panoptic_occ.structures.instances import InstanceSet, by_score
from panoptic_occ.structures.masks import MaskCrops, PairStats, intersections
from panoptic_occ.structures.relation import Relation
from panoptic_occ.structures.semantic_map import VOID_LABEL
from panoptic_occ.thing.paste import place_soft, soft_logits

Reach = Literal["image", "box", "mask"]
LabelMap = Int[Tensor, "h w"]
STUFF, VOID = -1, -2


class PixelArgmax(OcclusionModel):
    """The per-pixel choice of UPSNet's panoptic head.

    ``reach``: the pixels that an instance can win: those of its ``mask``, as of every other order, of its ``box``, or
    of the ``image``, as released: outside its box its logit is 0, more than that of stuff that is surely elsewhere.
    ``relabel``: an instance becomes stuff when X shows one kind of stuff in this share of its pixels or more, and no
    other class in more; None: it stays a thing.
    ``void``: also offer the void channel, max over thing classes of X minus max over instances of X[c_i]; it only
    means something for a base that was trained to use it.
    ``nms``, ``nms_thr``: suppression by IoU over all classes.
    ``same_class_thr``: remove a mask of which better ones of its class cover a larger share; None: none.
    """

    scope: ClassVar[Scope] = Scope.RESULT
    requires: ClassVar[frozenset[str]] = frozenset({"soft", "semantic_logits"})

    @checked("occlusion")
    def __init__(
        self,
        *,
        reach: Reach = "mask",
        relabel: Share | None = 0.5,
        void: bool = False,
        nms: Suppression = "box",
        nms_thr: Share = 0.5,
        same_class_thr: Share | None = 0.3,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        self.num_things = self.categories.num_things
        self.reach, self.relabel, self.void = reach, relabel, void
        self.nms, self.nms_thr, self.same_class_thr = nms, nms_thr, same_class_thr

    def forward(self, instances: InstanceSet, stats: PairStats, context: Context = NO_CONTEXT) -> Relation:
        """Disjoint claims; the margin is the share of the common pixels by which the row is ahead."""
        duplicate_of = self.suppressors(instances, stats)
        kept = (duplicate_of < 0) & (stats.area > 0)
        semantic = self._logits(context)
        owner = self.owner(instances, semantic, kept)
        things = self.num_things
        stuff = (semantic[things:].argmax(dim=0) + things).masked_fill(owner == VOID, VOID_LABEL)
        if self.relabel is not None:
            self._relabel(owner, stuff, semantic.argmax(dim=0), self.relabel)
        valid = self.pairs(instances, stats) & kept & kept[:, None]
        inside = owned_parts(owner, instances.masks)
        won = intersections(inside, instances.masks, valid.cpu())
        margin = torch.where(valid, (won - won.T) / stats.inter.clamp(min=1), 0)
        claims = inside if self.reach == "mask" else owned_pixels(owner, instances.masks)
        return Relation(margin, valid, claims=claims, duplicate_of=duplicate_of, stuff=stuff)

    def suppressors(self, instances: InstanceSet, stats: PairStats) -> Int[Tensor, " n"]:
        """Index of the better instance for which each one is removed, -1 if it is kept."""
        suppressor = duplicates(instances, stats, self.nms, self.nms_thr)
        if self.same_class_thr is None:
            return suppressor
        covered = torch.zeros(self.num_things, *instances.masks.size, dtype=torch.bool)
        kept = torch.zeros(len(instances), dtype=torch.bool)
        items, labels = list(instances.masks), instances.labels.cpu()
        for i in by_score(instances.scores).tolist():
            if suppressor[i] >= 0:
                continue
            window, crop = items[i]
            crop, below = crop.cpu(), covered[labels[i]][window]
            if int((below & crop).sum()) > self.same_class_thr * int(crop.sum()):
                rivals = torch.where(kept & (labels == labels[i]), stats.inter[i].cpu(), 0)
                suppressor[i] = rivals.argmax()
            else:
                kept[i] = True
                below |= crop
        return suppressor

    def owner(
        self, instances: InstanceSet, semantic: Float[Tensor, "c h w"], kept: Bool[Tensor, " n"] | None = None
    ) -> Int[Tensor, "h w"]:
        """The instance that every pixel goes to (of equal ones the better scored), ``STUFF`` or ``VOID``; ``kept``: the
        instances that are offered pixels, all by default."""
        things = self.num_things
        best = semantic[things:].amax(dim=0)
        owner = torch.full(best.shape, STUFF, device=best.device)
        labels: list[int] = instances.labels.tolist()
        items, logits = list(instances.masks), soft_logits(instances)
        ranking = [i for i in by_score(instances.scores).tolist() if kept is None or kept[i]]
        if self.void:
            offered = torch.zeros_like(best)  # X of instances is 0 outside their boxes
            for i in ranking:
                window, _ = items[i]
                offered[window] = torch.maximum(offered[window], semantic[labels[i]][window])
            unknown = semantic[:things].amax(dim=0) - offered
            owner = torch.where(unknown > best, VOID, owner)
            best = torch.maximum(best, unknown)
        for i in ranking:
            window, crop = items[i]
            total = semantic[labels[i]][window] + place_soft(logits[i], instances.boxes[i], window)
            if self.reach == "image":
                everywhere = torch.zeros_like(best)
                everywhere[window] = total
                window, total = (slice(None), slice(None)), everywhere
            wins = total > best[window]
            if self.reach == "mask":
                wins &= crop
            best[window] = torch.where(wins, total, best[window])
            owner[window] = torch.where(wins, i, owner[window])
        return owner

    def _relabel(self, owner: LabelMap, stuff: LabelMap, classes: LabelMap, least: float) -> None:
        """Turns an instance into the stuff that most of its pixels show, if the share ``least`` of them does."""
        for i in owner[owner >= 0].unique().tolist():
            pixels = owner == i
            counts = torch.bincount(classes[pixels])
            best = int(counts.argmax())
            if best >= self.num_things and int(counts[best]) / int(counts.sum()) >= least:
                stuff[pixels] = best
                owner[pixels] = STUFF

    def _logits(self, context: Context) -> Float[Tensor, "c h w"]:
        semantic = context.semantic
        if semantic is not None and semantic.logits is not None and semantic.first_label == 0:
            return semantic.logits
        raise ConfigError(
            "occlusion=upsnet reads semantic logits of every thing class, and this stuff branch has none; choose one "
            "with things=dense, for example stuff=pfpn_dense or stuff=ups"
        )


def owned_pixels(owner: Int[Tensor, "h w"], masks: MaskCrops) -> MaskCrops:
    """All pixels of every instance in a map of owners, as crops that cover those of its mask."""
    rectangles = ndimage.find_objects((owner + 1).clamp(min=0).cpu().numpy(), max_label=len(masks))
    crops, corners = [], []
    for i, ((rows, columns), _) in enumerate(masks):
        ys, xs = rectangles[i] or (rows, columns)
        top, left = min(rows.start, ys.start), min(columns.start, xs.start)
        bottom, right = max(rows.stop, ys.stop), max(columns.stop, xs.stop)
        crops.append(owner[top:bottom, left:right] == i)
        corners.append((top, left))
    return MaskCrops.from_crops(crops, corners, masks.size) if crops else masks
