"""The one fusion loop: detections + relation + stuff -> panoptic map.

Instances are offered one after the other, best score first.  Each takes the pixels of its mask that nobody owns and
those of instances that it lies above; what it takes must pass the policy's thresholds.  Without a relation this is the
heuristic of Panoptic FPN (Kirillov et al. 2019), with a pairwise one Algorithm 1 of OCFusion (Lazarow et al. 2020),
with margins v_j - v_i and the two checks Algorithm 1 of RAP.
"""

from __future__ import annotations

import logging
import operator
from functools import partial

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from panoptic_occ.fusion.canvas import Canvas, Counts
from panoptic_occ.fusion.inputs import check_inputs, check_stuff_labels, check_stuff_map, say_that_stuff_is_lost
from panoptic_occ.fusion.policy import FusionPolicy
from panoptic_occ.fusion.stuff import StuffSource, fill_stuff
from panoptic_occ.ops.claims import inherit
from panoptic_occ.ops.suppression import suppress
from panoptic_occ.structures.categories import Categories
from panoptic_occ.structures.instances import InstanceSet, by_score
from panoptic_occ.structures.masks import PairStats
from panoptic_occ.structures.panoptic_map import InstanceRecord, InstanceStatus, PanopticMap, Segment
from panoptic_occ.structures.relation import Relation

log = logging.getLogger(__name__)


def fuse(
    instances: InstanceSet,
    stats: PairStats,
    relation: Relation,
    semantic: StuffSource | None,
    policy: FusionPolicy,
    categories: Categories | None = None,
) -> PanopticMap:
    """The panoptic map of one image.

    ``semantic`` (H, W): contiguous stuff label of every pixel, negative where there is no stuff; or a function that
    gives these labels for the map of the things (0: free); None: things only.
    Instances go by ``relation.order``, else by falling score (stable).  Segments are numbered 1..K in the order they
    were pasted, then stuff by ascending label; the map has one record per instance.  All tensors on one device.
    ``relation.claims``: an instance takes pixels of its claim only, and ``free`` counts those; thresholds stay shares
    of the whole mask.  ``relation.duplicate_of`` rejects an instance before any check.  ``relation.stuff`` replaces the
    labels of ``semantic``.
    ``categories``: of the labels; without them a stuff label counts as a thing's up to the largest of the instances.
    Raises ValueError, with the fix, for sizes that contradict each other, scores outside [0, 1], stuff with labels of
    things, 255 (the ignore label of many data sets) in place of -1, and labels outside the categories.

    >>> import torch
    >>> from panoptic_occ import FusionPolicy, InstanceSet, MaskCrops, PairStats, Relation, fuse
    >>> masks = MaskCrops.from_dense(torch.tensor([[[True, True, True, False]], [[False, False, True, True]]]))
    >>> pair = InstanceSet(masks, masks.boxes, scores=torch.tensor([0.9, 0.8]), labels=torch.tensor([0, 1]))
    >>> margin = torch.tensor([[0.0, -1.0], [1.0, 0.0]])  # the second lies above the first
    >>> relation = Relation(margin, valid=margin != 0)
    >>> fuse(pair, PairStats.of(masks), relation, None, FusionPolicy(min_visible=0.5)).ids.tolist()
    [[1, 1, 2, 2]]
    """
    check_inputs(instances, stats, relation, semantic, categories)
    order = by_score(instances.scores) if relation.order is None else relation.order
    fusion = _Fusion(instances, stats, relation, policy)
    for i in order.tolist():
        fusion.offer(i)
    ids, segments = fusion.things()
    if semantic is not None:
        labels = relation.stuff
        if labels is None:
            labels = semantic(ids) if callable(semantic) else semantic
            check_stuff_map(labels, instances.masks.size)
        if policy.stuff_area >= 1 and policy.stuff_area > ids.numel() / 4:
            say_that_stuff_is_lost(policy.stuff_area)
        check = partial(check_stuff_labels, thing_labels=fusion.labels, categories=categories)
        ids, stuff = fill_stuff(ids, labels, policy.stuff_area, len(segments) + 1, policy.stuff_rule, check)
        segments += stuff
    return PanopticMap(ids.to(instances.masks.pixels.device, torch.int32), segments, fusion.records())


class _Fusion:
    """The canvas, and everything the checks need, as small tables on the CPU."""

    def __init__(self, instances: InstanceSet, stats: PairStats, relation: Relation, policy: FusionPolicy) -> None:
        n = len(instances)
        self.policy, self.above = policy, _above(relation)
        self.confident = (instances.scores >= policy.conf_thr).tolist()  # in the dtype of the scores, as ranked() does
        self.scores: list[float] = instances.scores.tolist()
        self.labels: list[int] = instances.labels.tolist()
        self.area: list[int] = stats.area.tolist()
        self.inter = stats.inter.cpu().numpy()
        self.duplicate_of = [-1] * n if relation.duplicate_of is None else relation.duplicate_of.tolist()
        self.duplicates = np.zeros((n, n), dtype=bool)
        if policy.duplicate_thr is not None:
            self.duplicates = stats.significant(policy.duplicate_thr, "both").cpu().numpy()
        claims = relation.claims
        not_by_score = relation.order is not None or claims is not None
        if not_by_score and policy.duplicate_areas == "original" and self.duplicates.any():
            suppressor = self._suppressors(instances.scores)
            claims = None if claims is None else inherit(claims, instances.masks, suppressor)
            self.duplicate_of = [s if s >= 0 else d for s, d in zip(suppressor, self.duplicate_of, strict=True)]
        self.claimed: list[int] = self.area if claims is None else claims.area.tolist()
        self.canvas = Canvas(instances.masks, stats, claims)
        self.taken: list[Counts] = [{}] * n  # [i][j]: pixels that i took from j
        self.owned, self.free = self.canvas.owned, [0] * n
        self.status: list[InstanceStatus] = ["low_score"] * n
        self.blocker: list[int | None] = [None] * n
        self.met: list[tuple[int, ...]] = [()] * n

    def offer(self, i: int) -> None:
        """Tries to paste instance i; a rejected one leaves no trace."""
        if not self.confident[i]:
            return
        if self.area[i] == 0:
            self.status[i] = "empty"
            return
        if self.duplicate_of[i] >= 0:
            self.status[i], self.blocker[i] = "duplicate", self.duplicate_of[i]
            return
        held = self.canvas.held(i)
        self.met[i] = tuple(sorted(held))
        contested = held if self.claimed is self.area else self.canvas.contested(i)
        won = {j: pixels for j, pixels in contested.items() if self.above[i, j] and self._counts(i, j, held[j])}
        self.free[i] = self.claimed[i] - sum(contested.values())
        gain = self.free[i] + sum(won.values())
        self.status[i], self.blocker[i] = self._verdict(i, gain, held, won)
        if self.status[i] != "kept":
            return
        self.canvas.paint(i, gain, won)
        self.taken[i] = won

    def _counts(self, i: int, j: int, common: int) -> bool:
        """Whether the ``common`` pixels of mask i and what j owns are enough for the order of the two to count."""
        threshold = self.policy.canvas_sig_ratio
        return threshold is None or max(common / self.area[i], common / self.owned[j]) >= threshold

    def _verdict(self, i: int, gain: int, held: Counts, won: Counts) -> tuple[InstanceStatus, int | None]:
        """Whether instance i may take ``gain`` pixels, and which instance prevents it.  Quotients of integers are
        compared, never products: 3/5 is exactly the float 0.6, 0.55 * 100 is not 55."""
        policy, area = self.policy, self.area[i]
        if policy.same_class_thr is not None:
            same = {j: pixels for j, pixels in held.items() if self.labels[j] == self.labels[i]}
            too_much = operator.gt if policy.same_class_strict else operator.ge
            if same and too_much(sum(same.values()) / area, policy.same_class_thr):
                return "same_class", _largest(same)
        if twins := self._twins(i, held):
            return "duplicate", _largest({j: int(self.inter[i, j]) for j in twins})
        hidden = policy.max_occluded is not None and (area - gain) / area > policy.max_occluded
        invisible = policy.min_visible is not None and gain / area <= policy.min_visible
        if gain == 0 or hidden or invisible:
            return "occluded", _largest({j: pixels - won.get(j, 0) for j, pixels in held.items()})
        return "kept", None

    def _twins(self, i: int, held: Counts) -> list[int]:
        """Accepted instances that i duplicates."""
        threshold = self.policy.duplicate_thr
        if threshold is None:
            return []
        if self.policy.duplicate_areas == "original":
            return [j for j in np.flatnonzero(self.duplicates[i]).tolist() if j in self.canvas.number]
        area = self.area[i]
        return [j for j, pixels in held.items() if pixels / area >= threshold and pixels / self.owned[j] >= threshold]

    def _suppressors(self, scores: Float[Tensor, " n"]) -> list[int]:
        """The better scored instance that each one repeats, -1 for none."""
        # in the relation's order the worse one may come first, and it may have been given pixels that the better needs
        takes_part = np.array(self.confident, bool) & (np.array(self.area) > 0) & (np.array(self.duplicate_of) < 0)
        pairs = self.duplicates & takes_part & takes_part[:, None]
        suppressor = suppress(scores.cpu(), torch.from_numpy(np.where(pairs, self.inter, 0)))
        return np.where(takes_part, suppressor.numpy(), -1).tolist()

    def things(self) -> tuple[Int[Tensor, "h w"], tuple[Segment, ...]]:
        """The map of segment ids and the segments, without instances that others covered too far."""
        final = self.final()
        kept = [i for i in self.canvas.number if final[i] > 0]
        segments = (
            Segment(number, self.labels[i], True, final[i], score=self.scores[i], instance=i)
            for number, i in enumerate(kept, start=1)
        )
        return self.canvas.ids(kept), tuple(segments)

    def final(self) -> list[int]:
        """Pixels of every instance in the finished map."""
        threshold = self.policy.post_min_visible
        if threshold is None:
            return self.owned
        pixels = zip(self.owned, self.area, strict=True)
        return [owned if owned / max(area, 1) > threshold else 0 for owned, area in pixels]

    def records(self) -> tuple[InstanceRecord, ...]:
        """What happened to every instance."""
        final = self.final()
        records = []
        for i, (status, blocker) in enumerate(zip(self.status, self.blocker, strict=True)):
            if status == "kept" and final[i] == 0:
                status, blocker = "erased", _largest({j: taken[i] for j, taken in enumerate(self.taken) if i in taken})
            pixels = self.area[i], self.free[i], sum(self.taken[i].values()), final[i]
            records.append(InstanceRecord(status, *pixels, blocker, self.met[i]))
        return tuple(records)


def _largest(counts: Counts) -> int | None:
    """The instance with the most pixels, the first of equal ones; None when there are none."""
    best = min(counts, key=lambda i: (-counts[i], i), default=None)
    return best if best is not None and counts[best] > 0 else None


def _above(relation: Relation) -> Bool[np.ndarray, "n n"]:
    """``relation.above()`` on the CPU; margins that are NaN are reported and count as not above."""
    if undecided := int((relation.valid & relation.margin.isnan()).sum()):
        log.warning("%d margins of the occlusion method are NaN; those pairs keep the order of the scores", undecided)
    return relation.above().cpu().numpy()
