"""The contract of an order: detections in, the relation among them (who lies in front of whom) out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, ClassVar, Literal

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from panoptic_occ.common.errors import ConfigError
from panoptic_occ.common.kinds import IN_GRID, Scope, Share
from panoptic_occ.config.values import checked
from panoptic_occ.structures.categories import Categories
from panoptic_occ.structures.instances import InstanceSet
from panoptic_occ.structures.masks import PairStats, Significance
from panoptic_occ.structures.relation import GroundTruthRule, Relation
from panoptic_occ.structures.semantic_map import SemanticMap
from panoptic_occ.structures.target import Target


@dataclass(frozen=True, eq=False)
class Context:
    """What an order may look at beside the detections; only what its ``requires`` names is there.

    ``image`` (3,H,W) uint8 RGB and ``semantic`` at the resolution of the masks; ``target``: the annotations.
    """

    image: Int[Tensor, "3 h w"] | None = None
    target: Target | None = None
    semantic: SemanticMap | None = None


NO_CONTEXT = Context()


@dataclass(frozen=True, eq=False)
class TrainingExample:
    """Positive proposals of a training image: ``matches[n]`` is the annotation (index into the target) of proposal n.

    ``instances.soft`` and ``instances.masks`` are the base's predictions for the annotation's class.
    Methods that learn from annotations alone get those instead of proposals: ``matches`` is then 0, 1, ..., K-1.
    """

    instances: InstanceSet
    matches: Int[Tensor, " n"]
    target: Target

    @cached_property
    def stats(self) -> PairStats:
        """Pixel counts of the instances."""
        return PairStats.of(self.instances.masks)

    def annotated_order(self, sig_ratio: float, rule: GroundTruthRule) -> Int[Tensor, "n n"]:
        """1 where the annotation of the row lies above that of the column, 0 below, -1 for the same one or no order."""
        order = self.target.relation.matrix(sig_ratio, rule).to(self.matches.device)
        return order[self.matches[:, None], self.matches[None, :]]

    @staticmethod
    def of_annotations(target: Target) -> TrainingExample:
        """The annotations of an image as its instances."""
        scores = torch.ones(len(target.labels), device=target.labels.device)
        instances = InstanceSet(target.masks, target.boxes.float(), scores, target.labels)
        return TrainingExample(instances, torch.arange(len(scores), device=scores.device), target)

    @staticmethod
    def without_instances(target: Target, channels: int) -> TrainingExample:
        """An image without any positive proposal; ``channels`` of the RoI features."""
        instances = InstanceSet.empty(target.masks.size, channels, target.labels.device)
        return TrainingExample(instances, instances.labels, target)


class OcclusionModel(nn.Module):
    """Base class of every order.

    ``requires`` names what ``forward`` reads beside masks, boxes, scores and labels: ``soft``, ``roi_features`` and
    ``semantic_logits`` (the base computes them only on demand), ``image`` (uint8 RGB at the resolution of the masks),
    ``target``, and ``class_table`` (see ``use_class_table``).
    An order that reads ``soft`` or ``roi_features`` writes ``head_outputs`` (all that needs them) and ``relate`` (all
    that follows from the outputs), so that stored outputs replace the network, whatever the thresholds; any other one
    writes ``forward`` alone.
    ``learns_from``: positive ``proposals`` of the frozen base, or the ``annotations`` alone, without any image.
    ``scope``: what a parameter changes whose annotation does not say (``Annotated[float, Scope.RESULT]``): the
    module's weights; an order that learns nothing says ``Scope.RESULT``.
    ``in_channels`` of ``roi_features`` and ``categories`` are for orders that read them; the suite gives them to all.
    ``sig_ratio`` (OCFusion's rho), ``significance``, ``intra`` and ``inter`` decide which pairs count at all.

    >>> import torch
    >>> from panoptic_occ import InstanceSet, MaskCrops, OcclusionModel, PairStats, Relation
    >>> class LeftIsFront(OcclusionModel):
    ...     def forward(self, instances, stats, context=None):
    ...         value = -instances.boxes[:, 0]
    ...         return Relation(value[:, None] - value[None, :], self.pairs(instances, stats), value=value)
    >>> masks = MaskCrops.from_dense(torch.tensor([[[False, True, True]], [[True, True, False]]]))
    >>> cats = InstanceSet(masks, masks.boxes, scores=torch.tensor([0.9, 0.8]), labels=torch.tensor([0, 0]))
    >>> LeftIsFront()(cats, PairStats.of(masks)).above().tolist()
    [[False, False], [True, False]]
    """

    requires: ClassVar[frozenset[str]] = frozenset()
    learns_from: ClassVar[Literal["proposals", "annotations"]] = "proposals"
    scope: ClassVar[Scope] = Scope.MODULE

    @checked("occlusion")
    def __init__(
        self,
        *,
        in_channels: int = 0,
        categories: Categories | None = None,
        sig_ratio: Annotated[Share, IN_GRID] = 0.2,
        significance: Annotated[Significance, Scope.RESULT] = "either",
        intra: Annotated[bool, Scope.RESULT] = True,
        inter: Annotated[bool, Scope.RESULT] = True,
    ) -> None:
        super().__init__()
        self.in_channels, self._categories = in_channels, categories
        self.sig_ratio, self.significance = sig_ratio, significance
        self.intra, self.inter = intra, inter

    def forward(self, instances: InstanceSet, stats: PairStats, context: Context = NO_CONTEXT) -> Relation:
        """The relation among ``instances`` (ranked by score).  Must work for N = 0 and N = 1."""
        return self.relate(instances, stats, self.head_outputs(instances, stats))

    def head_outputs(self, instances: InstanceSet, stats: PairStats, wide: bool = False) -> dict[str, Tensor]:
        """What the network says of the instances, before any threshold: named tensors (N,) or (N, N), NaN for pairs
        that it did not see.  ``wide``: it sees every overlapping pair in both directions, so that any threshold, class
        switch or symmetry can be applied later."""
        raise NotImplementedError(f"{type(self).__name__} has no head outputs to keep")

    def relate(self, instances: InstanceSet, stats: PairStats, head_outputs: Mapping[str, Tensor]) -> Relation:
        """The relation that follows from ``head_outputs``; must not read ``soft`` or ``roi_features``."""
        raise NotImplementedError(f"{type(self).__name__} cannot be related without its network")

    def use_class_table(self, table: Int[Tensor, "t t"]) -> None:
        """Takes ``table[a, b]``: pairs of the training set with class a in front of b, if ``requires`` names it."""
        raise NotImplementedError(f"{type(self).__name__} requires a class table and does not take one")

    def trainable_annotations(self, target: Target) -> Bool[Tensor, " k"]:
        """Annotations whose proposals can have a part in the loss; an image without any does not reach the base."""
        return torch.ones(len(target.labels), dtype=torch.bool, device=target.labels.device)

    def loss(self, examples: Sequence[TrainingExample], generator: torch.Generator) -> dict[str, Tensor]:
        """Named losses over a batch, each a scalar with a graph to every parameter, also when no image has a pair.
        ``generator`` is the only source of randomness (a CPU generator, a function of seed and step)."""
        raise NotImplementedError(f"{type(self).__name__} has nothing to train")

    @property
    def categories(self) -> Categories:
        """The categories whose labels the instances have; ConfigError when none were given."""
        if self._categories is None:
            raise ConfigError(
                f"{type(self).__name__} has a part for every class of things; give it the categories of the data set: "
                f"{type(self).__name__}(categories=Categories.from_json(...))"
            )
        return self._categories

    @property
    def trainable(self) -> bool:
        """Whether the method has parameters that stage 2 trains."""
        return next(self.parameters(), None) is not None

    def pairs(self, instances: InstanceSet, stats: PairStats) -> Bool[Tensor, "n n"]:
        """Pairs that the order may decide: significant overlap, and allowed by the intra/inter class switches."""
        same = instances.labels[:, None] == instances.labels[None, :]
        allowed = (same & self.intra) | (~same & self.inter)
        return stats.significant(self.sig_ratio, self.significance) & allowed.to(stats.inter.device)
