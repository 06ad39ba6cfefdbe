"""BANet's occlusion handling: contested pixels go to the instance whose colour they resemble (Chen et al., CVPR 2020,
"BANet: Bidirectional Aggregation Network with Occlusion Handling for Panoptic Segmentation").  Nothing is learned.

Shapes: N instances, P pairs, A atoms (sets of pixels with the same claimants), image (3, H, W) in RGB.
    u(x)    = rgb(x) / |rgb(x)|                    unit colour of a pixel, 0 for black
    nu_i    = mean of rgb over M_i, as a unit      colour of instance i
    f(i, X) = mean over x in X of u(x) . nu_i      cosine similarity (section 3.3, before Eq. 4)
Of two instances that overlap enough, the one of larger f(., M_i & M_j) lies above.  Section 4.3 settles the rest:
duplicates, pairs that contradict each other, weak overlaps.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Real
from torch import Tensor

from panoptic_occ.common.errors import ConfigError, did_you_mean
from panoptic_occ.common.kinds import Scope, Share
from panoptic_occ.config.values import checked
from panoptic_occ.occlusion.base import NO_CONTEXT, Context, OcclusionModel
from panoptic_occ.ops.claims import atoms, give_away, owned_parts
from panoptic_occ.ops.order import Pair, acyclic, ranked_pairs, topological_order
from panoptic_occ.ops.suppression import Suppression, duplicates
from panoptic_occ.structures.instances import InstanceSet, by_score
from panoptic_occ.structures.masks import MaskCrops, Meetings, PairStats, intersections, meetings
from panoptic_occ.structures.relation import Relation

Resolve = Literal["order", "sequential", "atoms"]
SetAside = Literal["transitive", "score", "keep"]
TieBreak = Literal["score", "index"]
Mean = Literal["mask", "uncontested"]
Colors = Literal["raw", "normalized"]

EPS = 1e-9  # similarities closer than this are equal; what remains is rounding, which depends on brightness and device
SETASIDE = {"order": ("transitive", "score"), "sequential": ("score", "keep"), "atoms": ("keep",)}
"""What may become of pairs that contradict others; the first is the default."""
Image = Real[Tensor, "3 h w"]
Ranking = Sequence[int]
"""Instances that take part, best score first."""
Pairs = Bool[Tensor, "n n"]
PIXEL_MEAN, PIXEL_STD = (123.675, 116.28, 103.53), (0.229, 0.224, 0.225)  # ImageNet's; no pixel of 0..255 becomes black


class AppearanceOrder(OcclusionModel):
    """The instance whose mean colour resembles the common pixels more lies above; ties go by score.

    ``resolve``: ``order`` paints in a topological order of the pairs; ``sequential`` goes from pair to pair, and the
    one below gives up what both still have; ``atoms`` gives every atom to the most similar of its claimants, without
    looking at pairs (Eq. 4).  Overlaps that appearance does not decide go by score, with ``order`` only where it leaves
    them open.
    ``setaside``: pairs that contradict better scored ones follow from these (``transitive``), go by score (``score``)
    or stand (``keep``); None: the first that ``resolve`` allows, see ``SETASIDE``.
    ``tie_break``: of pairs whose higher score is equal, that of the higher lower ``score`` goes first, then the better
    ranked one; ``index``: the better ranked one, whatever the lower score.
    ``mean``: colour of the whole ``mask``, or of its pixels that nobody else claims (``uncontested``) if it has any.
    ``colors``: ``raw`` (RGB from 0 to 255), or ``normalized`` by ImageNet's mean and standard deviation.
    ``nms``, ``nms_thr``: of two instances of any class whose ``box`` or ``mask`` IoU is larger, the better scored takes
    part.
    Raises ConfigError for choices that do not go together.
    """

    requires: ClassVar[frozenset[str]] = frozenset({"image"})
    scope: ClassVar[Scope] = Scope.RESULT

    @checked("occlusion")
    def __init__(
        self,
        *,
        resolve: Resolve = "order",
        setaside: SetAside | None = None,
        tie_break: TieBreak = "score",
        mean: Mean = "mask",
        colors: Colors = "raw",
        nms: Suppression = "box",
        nms_thr: Share = 0.5,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        allowed = SETASIDE[resolve]
        if setaside is not None and setaside not in allowed:
            raise ConfigError(
                f"occlusion.setaside={setaside!r} does not go with resolve={resolve}; "
                f"{did_you_mean(setaside, ('null', *allowed))}"
            )
        self.resolve, self.setaside = resolve, setaside or allowed[0]
        self.tie_break: TieBreak = tie_break
        self.uncontested, self.normalized = mean == "uncontested", colors == "normalized"
        self.nms, self.nms_thr = nms, nms_thr

    def forward(self, instances: InstanceSet, stats: PairStats, context: Context = NO_CONTEXT) -> Relation:
        """Margin: difference of the two similarities, with ``atoms`` the share of the common pixels by which the row is
        ahead; valid where the pair stands.  ``order`` makes no claims, the others disjoint ones."""
        image: Image = _image(instances, context)
        image = normalized(image) if self.normalized else image
        duplicate_of = duplicates(instances, stats, self.nms, self.nms_thr)
        by_rank = by_score(instances.scores)
        suppressed = duplicate_of[by_rank] >= 0
        ranking = by_rank[~suppressed].tolist()
        selected = self.selected_pairs(instances, stats, ranking)
        colors = mean_colors(image, instances.masks, ranking, selected.any(dim=1), self.uncontested)
        if self.resolve == "atoms":
            relation = _by_atoms(image, instances.masks, stats, ranking, selected, colors)
        else:
            margin = margins(image, instances.masks, selected, colors)
            relation = self._by_pairs(instances, stats, ranking, selected, margin)
        order = by_rank.new_tensor(ranking) if relation.order is None else relation.order
        return replace(relation, order=torch.cat([order, by_rank[suppressed]]), duplicate_of=duplicate_of)

    def selected_pairs(self, instances: InstanceSet, stats: PairStats, ranking: Ranking) -> Pairs:
        """Pairs among ``ranking`` that appearance decides, in both directions: those with *more* than the share
        ``sig_ratio`` (section 4.3); a directional share is that of the lower score."""
        rank = torch.full((len(instances),), -1, device=stats.inter.device)
        rank[ranking] = torch.arange(len(ranking), device=rank.device)
        later = (rank[:, None] > rank[None, :]) & (rank[None, :] >= 0)
        significant = stats.significant(self.sig_ratio, self.significance, strict=True)
        selected = self.pairs(instances, stats) & significant & later
        return selected | selected.T

    def _by_pairs(
        self, instances: InstanceSet, stats: PairStats, ranking: Ranking, selected: Pairs, margin: Tensor
    ) -> Relation:
        """Pairs by falling score; those that contradict the ones before are set aside (section 4.3)."""
        pairs = ordered_pairs(margin, selected, instances.scores.tolist(), ranking, self.tie_break)
        agreeing = acyclic(pairs, len(instances))
        score_pairs = ranked_pairs(stats.inter > 0, ranking)
        with_scores = set(score_pairs)
        stands = {
            "transitive": agreeing,
            "score": [*agreeing, *(pair for pair in pairs if pair in with_scores)],
            "keep": pairs,
        }[self.setaside]
        by_appearance = _matrix(agreeing if self.setaside == "score" else pairs, selected) & (margin != 0)
        relation = Relation(margin.float(), _matrix(stands, selected), score_decides=~by_appearance)
        if self.resolve == "order":
            order = torch.tensor(topological_order(ranking, agreeing), dtype=torch.int64, device=margin.device)
            return replace(relation, order=order)
        turns = pairs if self.setaside == "keep" else agreeing
        return replace(relation, claims=give_away(instances.masks, [*turns, *score_pairs], ranking))


def normalized(image: Image) -> Float[Tensor, "3 h w"]:
    """The image (RGB from 0 to 255) as networks pretrained on ImageNet read it, times 255 (float64): dark and bright
    colours get opposite directions, which the factor does not change."""
    mean, std = (image.new_tensor(values, dtype=torch.float64)[:, None, None] for values in (PIXEL_MEAN, PIXEL_STD))
    return (image - mean) / std


def mean_colors(
    image: Image, masks: MaskCrops, ranking: Ranking, where: Bool[Tensor, " n"], uncontested: bool = False
) -> Float[Tensor, "n 3"]:
    """nu of the instances in ``where`` as unit vectors (float64), 0 for others and for black ones; ``uncontested``: of
    the pixels that nobody else of ``ranking`` claims, of all where there is none."""
    items = list(masks)
    claimants = torch.zeros(masks.size, dtype=torch.int32, device=image.device)
    if uncontested:
        for i in ranking:
            window, crop = items[i]
            claimants[window] += crop
    dtype = torch.float64 if image.is_floating_point() else torch.int64  # exact
    sums = torch.zeros((len(masks), 3), dtype=dtype, device=image.device)  # a mean only scales them
    for i in where.nonzero().flatten().tolist():
        window, crop = items[i]
        alone = crop & (claimants[window] <= 1)
        part = alone if alone.any() else crop
        sums[i] = (image[:, *window] * part).sum(dim=(1, 2))
    return F.normalize(sums.double(), dim=1)


def margins(image: Image, masks: MaskCrops, selected: Pairs, colors: Float[Tensor, "n 3"]) -> Float[Tensor, "n n"]:
    """f(i, M_i & M_j) - f(j, M_i & M_j) of the selected pairs in float64, 0 for ties and elsewhere."""
    margin = colors.new_zeros(selected.shape)
    pairs = meetings(masks, masks, selected.triu(diagonal=1).cpu())
    first, second = (torch.from_numpy(index).to(selected.device) for index in (pairs.first, pairs.second))
    ahead = (common_colors(image, masks, pairs).to(colors.device) * (colors[first] - colors[second])).sum(dim=1)
    ahead = torch.where(ahead.abs() < EPS, 0, ahead)
    margin[first, second], margin[second, first] = ahead, -ahead
    return margin


def common_colors(image: Image, masks: MaskCrops, pairs: Meetings) -> Float[Tensor, "p 3"]:
    """Mean unit colour of the pixels that both masks of a pair cover, at least one; on the CPU.

    The sum over a run of pixels is a difference of two sums from the start of the row, so that a pixel's colour is read
    once for all pairs.
    """
    if not len(pairs.first):
        return torch.zeros((0, 3), dtype=torch.float64)
    (top, left), (bottom, right) = pairs.rectangles[:, :2].min(axis=0), pairs.rectangles[:, 2:].max(axis=0)
    colors = unit_colors(image[:, top:bottom, left:right].cpu())
    sums = F.pad(colors, (1, 0)).cumsum(dim=2).flatten(1).numpy()
    stride = right - left + 1
    crops = list(zip(masks.arrays(), masks.windows[:, :2].tolist(), strict=True))
    means = []
    for i, j, (y0, x0, y1, x1) in zip(*(part.tolist() for part in pairs), strict=True):
        one, other = (crop[y0 - y : y1 - y, x0 - x : x1 - x] for crop, (y, x) in (crops[i], crops[j]))
        common = np.zeros((y1 - y0, x1 - x0 + 2), dtype=bool)
        np.logical_and(one, other, out=common[:, 1:-1])
        y, x = np.divmod(np.flatnonzero(common[:, 1:] != common[:, :-1]), x1 - x0 + 1)  # starts and ends in turn
        ends = (y + y0 - top) * stride + x + x0 - left
        start, stop = ends[::2], ends[1::2]
        means.append((sums[:, stop] - sums[:, start]).sum(axis=1) / (stop - start).sum())
    return torch.from_numpy(np.stack(means))


def unit_colors(pixels: Real[Tensor, "3 ..."]) -> Float[Tensor, "3 ..."]:
    """u: the colour of every pixel divided by its length (float64); black stays 0."""
    rgb = pixels.double()
    return rgb * rgb.square().sum(dim=0).clamp(min=1).rsqrt()  # any colour but black is at least 1 long


def ordered_pairs(
    margin: Tensor, selected: Pairs, scores: Sequence[float], ranking: Ranking, tie_break: TieBreak = "score"
) -> list[Pair]:
    """(above, below) of every selected pair, by the higher score, then (``score``) the lower one, then the ranking."""
    ahead = (margin >= 0).tolist()
    pairs = ranked_pairs(selected, ranking)
    if tie_break == "score":
        pairs.sort(key=lambda pair: (-scores[pair[0]], -scores[pair[1]]))
    return [(i, j) if ahead[i][j] else (j, i) for i, j in pairs]


def assign_atoms(image: Image, masks: MaskCrops, colors: Float[Tensor, "n 3"], ranking: Ranking) -> MaskCrops:
    """Claims where every atom goes to the claimant of highest f(., atom), on a tie to the best ranked (Eq. 4)."""
    atom_of, claimants = atoms(masks)
    contested = (claimants.sum(dim=1) > 1)[atom_of]
    atom = atom_of[contested]
    sums = colors.new_zeros((len(claimants), 3)).index_add_(0, atom, unit_colors(image[:, contested]).T)
    similarity = (sums / torch.bincount(atom, minlength=len(claimants)).clamp(min=1)[:, None]) @ colors.T
    similarity = torch.where(claimants, similarity, -torch.inf)[:, ranking]
    closest = similarity >= similarity.amax(dim=1, keepdim=True) - EPS
    owner = torch.tensor(ranking, device=image.device)[closest.int().argmax(dim=1)][atom_of]
    return owned_parts(owner, masks)


def _by_atoms(
    image: Image, masks: MaskCrops, stats: PairStats, ranking: Ranking, selected: Pairs, colors: Float[Tensor, "n 3"]
) -> Relation:
    """Weak overlaps by score, then every atom of what is left by appearance."""
    claims = give_away(masks, ranked_pairs((stats.inter > 0) & ~selected, ranking), ranking)
    if selected.any():
        claims = assign_atoms(image, claims, colors, ranking)
    won = intersections(claims, masks, selected.cpu())
    margin = (won - won.T) / stats.inter.clamp(min=1)
    return Relation(margin.float(), selected, score_decides=~selected | (margin == 0), claims=claims)


def _matrix(pairs: Iterable[Pair], like: Pairs) -> Pairs:
    """True for the pairs, in both directions."""
    matrix = torch.zeros_like(like)
    index = torch.tensor(list(pairs), dtype=torch.int64, device=like.device).view(-1, 2)
    matrix[index[:, 0], index[:, 1]] = matrix[index[:, 1], index[:, 0]] = True
    return matrix


def _image(instances: InstanceSet, context: Context) -> Image:
    """The image in the frame of the masks; ValueError when it is missing or of another size."""
    image, shape = context.image, (3, *instances.masks.size)
    if image is None or tuple(image.shape) != shape:
        given = None if image is None else tuple(image.shape)
        raise ValueError(f"the appearance order needs context.image of shape {shape}, got {given}")
    return image
