"""The one fusion loop: detections + relation + stuff -> panoptic map.

Instances are offered one after the other, best score first.  Each takes the pixels of its mask that nobody owns and
those owned by instances that it lies above; what it takes must pass the policy's thresholds.  With no relation this is
the heuristic of Panoptic FPN (Kirillov et al. 2019), with a pairwise one Algorithm 1 of OCFusion (Lazarow et al. 2020),
with margins v_j - v_i and the two checks Algorithm 1 of RAP.
"""

from __future__ import annotations

import logging
import operator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from panoptic_occ.common.errors import ConfigError, did_you_mean
from panoptic_occ.fusion.canvas import Canvas, Counts
from panoptic_occ.fusion.dilation import SHAPES, STRIDES, Dilation, Shape
from panoptic_occ.fusion.inputs import StuffSource, check_sizes
from panoptic_occ.fusion.stuff import STUFF_RULES, StuffRule, fill_stuff
from panoptic_occ.ops.claims import inherit
from panoptic_occ.ops.suppression import suppress
from panoptic_occ.structures.instances import InstanceRecord, InstanceSet, InstanceStatus, PanopticMap, Segment
from panoptic_occ.structures.masks import PairStats
from panoptic_occ.structures.relation import Relation

log = logging.getLogger(__name__)

SHARES = (
    *("conf_thr", "max_occluded", "min_visible", "canvas_sig_ratio", "same_class_thr", "duplicate_thr"),
    *("post_min_visible", "erase_thr"),
)
WORDS = {
    "stuff_rule": STUFF_RULES,
    "duplicate_areas": ("original", "canvas"),
    "erase_shape": SHAPES,
    "erase_stride": STRIDES,
}


@dataclass(frozen=True)
class FusionPolicy:
    """Thresholds of the fusion, as shares of the area of the instance's mask; None switches a check off.

    ``conf_thr``: instances with a lower score take no part. ``max_occluded``: reject when a larger share cannot be
    taken. ``min_visible``: reject when this share or less can be taken. ``canvas_sig_ratio``: what the relation says
    about an owner counts if the common pixels that it still owns are this share or more of the new mask or of all that
    it owns (RAP's code of OCFusion, on the canvas where the paper compares whole masks). ``same_class_thr``: reject
    when this share or more is already owned by instances of the same class (RAP, CA), with ``same_class_strict`` only
    when it is more. ``duplicate_thr``: reject when the intersection with an accepted instance is this share or more of
    both masks (RAP, EO); where the relation brings an order or claims of its own, the intersection with one of better
    score that is no duplicate itself: the better one stands in any order, and claims what its duplicates were given of
    its mask. ``duplicate_areas``: of the other one counts its whole mask (``original``, the paper) or only what it owns
    by then (``canvas``, RAP's code; always an accepted one). ``post_min_visible``: remove an accepted instance that
    others left this share or less. ``stuff_area`` in pixels: smaller stuff segments stay void; by ``stuff_rule``, whole
    classes are measured (``class``) or each connected ``component`` of them (OANet). ``erase_thr``: components of the
    stuff with a lower mean probability stay void, measured up to ``erase_radius`` pixels around them (REFINE, see
    ``fusion.erasing``), in a ``square`` or a ``disk`` (``erase_shape``), pixel by pixel or in cells of ``erase_stride``
    4; with ``erase_after``, components of what the things leave free.
    Raises ConfigError for values outside [0, 1] and for a negative or fractional area.
    """

    conf_thr: float = 0.5
    max_occluded: float | None = None
    min_visible: float | None = None
    same_class_thr: float | None = None
    duplicate_thr: float | None = None
    stuff_area: int = 4096
    same_class_strict: bool = False
    duplicate_areas: Literal["original", "canvas"] = "original"
    canvas_sig_ratio: float | None = None
    post_min_visible: float | None = None
    stuff_rule: StuffRule = "class"
    erase_thr: float | None = None
    erase_radius: int = 0
    erase_shape: Shape = "square"
    erase_stride: int = 1
    erase_after: bool = False

    def __post_init__(self) -> None:
        for name in SHARES:
            value = getattr(self, name)
            if value is None and name != "conf_thr":
                continue
            if not isinstance(value, int | float) or not 0 <= value <= 1:
                off = "" if name == "conf_thr" else ", or null to switch the check off"
                raise ConfigError(f"fusion.{name}={value!r}: must be a share between 0 and 1{off}")
        for name in ("stuff_area", "erase_radius"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 0:
                raise ConfigError(f"fusion.{name}={value!r}: must be a whole number of pixels, 0 or more")
        for name, allowed in WORDS.items():
            if (word := getattr(self, name)) not in allowed:
                raise ConfigError(f"fusion.{name}={word!r} is unknown; {did_you_mean(word, allowed)}")
        for name in ("same_class_strict", "erase_after"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(f"fusion.{name}={getattr(self, name)!r}: must be true or false")

    @property
    def dilation(self) -> Dilation:
        """How far around a component unknown erasing looks."""
        return Dilation(self.erase_radius, self.erase_shape, self.erase_stride)

    @property
    def requires(self) -> frozenset[str]:
        """What the base must compute for this policy beside the labels of the stuff: its logits, to erase by."""
        return frozenset() if self.erase_thr is None else frozenset({"semantic_logits"})


def fuse(
    instances: InstanceSet,
    stats: PairStats,
    relation: Relation,
    semantic: StuffSource | None,
    policy: FusionPolicy,
) -> PanopticMap:
    """Fuses the detections and the stuff of one image into a panoptic map.

    ``semantic`` (H, W): contiguous stuff label of every pixel, negative where there is no stuff; or a function that
    gives these labels for the map of the things (0: free); None: things only.
    Instances go by ``relation.order``, else by falling score (stable).  Segments are numbered 1..K in the order they
    were pasted, then stuff by ascending label; the map has one record per instance.  All tensors on one device.
    With ``relation.claims`` an instance takes pixels of its claim only, and ``free`` counts those; the thresholds
    stay shares of the whole mask.  ``relation.duplicate_of`` rejects an instance before it is looked at.
    ``relation.stuff`` stands in for the labels of ``semantic``.
    Raises ValueError when the sizes of the inputs contradict each other.
    """
    check_sizes(instances, stats, relation, semantic)
    order = relation.order
    if order is None:
        order = torch.argsort(instances.scores, descending=True, stable=True)
    fusion = _Fusion(instances, stats, relation, policy)
    for i in order.tolist():
        fusion.offer(i)
    ids, segments = fusion.things()
    if semantic is not None:
        labels = relation.stuff
        if labels is None:
            labels = semantic(ids) if callable(semantic) else semantic
        ids, stuff = fill_stuff(ids, labels, policy.stuff_area, len(segments) + 1, policy.stuff_rule)
        segments += stuff
    return PanopticMap(ids.to(instances.masks.pixels.device, torch.int32), segments, fusion.records())


class _Fusion:
    """The canvas, and everything the checks need, as small tables on the CPU."""

    def __init__(self, instances: InstanceSet, stats: PairStats, relation: Relation, policy: FusionPolicy) -> None:
        n = len(instances)
        self.policy = policy
        self.above = _above(relation)
        self.confident = (instances.scores >= policy.conf_thr).tolist()  # in the dtype of the scores, as ranked() does
        self.scores: list[float] = instances.scores.tolist()
        self.labels: list[int] = instances.labels.tolist()
        self.area: list[int] = stats.area.tolist()
        self.inter = stats.inter.cpu().numpy()
        self.duplicate_of = [-1] * n if relation.duplicate_of is None else relation.duplicate_of.tolist()
        self.duplicates = _duplicates(stats, policy)
        claims = relation.claims
        brings = relation.order is not None or claims is not None
        if brings and policy.duplicate_areas == "original" and self.duplicates.any():
            settled = self._suppress(instances.scores)
            claims = None if claims is None else inherit(claims, instances.masks, settled)
            self.duplicate_of = [s if s >= 0 else d for s, d in zip(settled, self.duplicate_of, strict=True)]
        self.claimed: list[int] = self.area if claims is None else claims.area.tolist()
        self.canvas = Canvas(instances.masks, stats, claims)
        self.taken: list[Counts] = [{}] * n  # [i][j]: pixels that i took from j
        self.owned = self.canvas.owned
        self.free = [0] * n
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
        """Whether ``common`` pixels that i covers of what j owns are enough for their order to matter."""
        threshold = self.policy.canvas_sig_ratio
        return threshold is None or max(common / self.area[i], common / self.owned[j]) >= threshold

    def _verdict(self, i: int, gain: int, held: Counts, won: Counts) -> tuple[InstanceStatus, int | None]:
        """Whether instance i may take ``gain`` pixels, and who prevents it.

        Quotients of integers are compared, never products: 3/5 is exactly the float 0.6, 0.55 * 100 is not 55.
        """
        policy, area = self.policy, self.area[i]
        if policy.same_class_thr is not None:
            same = {j: pixels for j, pixels in held.items() if self.labels[j] == self.labels[i]}
            too_much = operator.gt if policy.same_class_strict else operator.ge
            if same and too_much(sum(same.values()) / area, policy.same_class_thr):
                return "same_class", _largest(same)
        twins = self._twins(i, held)
        if twins:
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

    def _suppress(self, scores: Float[Tensor, " n"]) -> list[int]:
        """Whom each instance repeats (-1: nobody), settled by score beforehand.

        In the relation's order the worse one may come first, and it may have been given pixels that the better needs.
        """
        takes_part = np.array(self.confident, bool) & (np.array(self.area) > 0) & (np.array(self.duplicate_of) < 0)
        pairs = self.duplicates & takes_part & takes_part[:, None]
        found = suppress(scores.cpu(), torch.from_numpy(np.where(pairs, self.inter, 0)))
        return np.where(takes_part, found.numpy(), -1).tolist()

    def things(self) -> tuple[Int[Tensor, "h w"], tuple[Segment, ...]]:
        """The map of segment ids and the segments; instances that others covered too far are gone."""
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
        shares = [pixels / max(area, 1) for pixels, area in zip(self.owned, self.area, strict=True)]
        return [pixels if share > threshold else 0 for pixels, share in zip(self.owned, shares, strict=True)]

    def records(self) -> tuple[InstanceRecord, ...]:
        """What happened to every instance."""
        final = self.final()
        records = []
        for i, (status, blocker) in enumerate(zip(self.status, self.blocker, strict=True)):
            if status == "kept" and final[i] == 0:
                takers = {j: taken[i] for j, taken in enumerate(self.taken) if i in taken}
                status, blocker = "erased", _largest(takers)
            reclaimed = sum(self.taken[i].values())
            pixels = self.area[i], self.free[i], reclaimed, final[i]
            records.append(InstanceRecord(status, *pixels, blocker, self.met[i]))
        return tuple(records)


def _largest(counts: Counts) -> int | None:
    """The instance with the most pixels, the first of equal ones; None when there are none."""
    best = min(counts, key=lambda i: (-counts[i], i), default=None)
    return best if best is not None and counts[best] > 0 else None


def _above(relation: Relation) -> Bool[np.ndarray, "n n"]:
    """``relation.above()`` on the CPU; margins that are NaN are reported and count as not above."""
    undecided = int((relation.valid & relation.margin.isnan()).sum())
    if undecided:
        log.warning("%d margins of the occlusion method are NaN; those pairs keep the order of the scores", undecided)
    return relation.above().cpu().numpy()


def _duplicates(stats: PairStats, policy: FusionPolicy) -> Bool[np.ndarray, "n n"]:
    """Pairs whose intersection is ``duplicate_thr`` or more of both masks (on the CPU); none when it is None."""
    if policy.duplicate_thr is None:
        return np.zeros(stats.inter.shape, dtype=bool)
    return stats.significant(policy.duplicate_thr, "both").cpu().numpy()
