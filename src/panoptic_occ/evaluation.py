"""Evaluates several relations side by side on the same detections."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import nn

from panoptic_occ.categories import Categories
from panoptic_occ.fusion.engine import FusionPolicy, fuse
from panoptic_occ.metrics.panoptic_quality import PanopticQuality, PQResult
from panoptic_occ.metrics.relation_accuracy import RelationAccuracy
from panoptic_occ.model import BaseOutput
from panoptic_occ.occlusion.base import OcclusionModel
from panoptic_occ.occlusion.matching import match_instances
from panoptic_occ.structures import PanopticMap, Sample

Listener = Callable[[Sample, BaseOutput, Mapping[str, PanopticMap]], None]


class Evaluation(nn.Module):
    """Panoptic quality and relation accuracy of every relation in ``relations``, all with one fusion ``policy``.

    ``sig_ratio``: overlap from which a ground-truth pair counts for the relation accuracy.
    ``listeners`` see every image with its maps (pictures, result files); nothing else is kept, so memory is bounded.
    """

    def __init__(
        self,
        relations: Mapping[str, OcclusionModel],
        policy: FusionPolicy,
        categories: Categories,
        sig_ratio: float = 0.2,
        listeners: tuple[Listener, ...] = (),
    ) -> None:
        super().__init__()
        self.policy = policy
        self.listeners = listeners
        self.relations = dict(relations)
        self.quality = {name: PanopticQuality(categories) for name in relations}
        self.accuracy = {name: RelationAccuracy(sig_ratio) for name in relations}
        # as a list, so that the metrics move with the module to its device
        self.metrics = nn.ModuleList([*self.quality.values(), *self.accuracy.values()])

    @property
    def requires(self) -> frozenset[str]:
        """Everything that any of the relations reads."""
        return frozenset().union(*(relation.requires for relation in self.relations.values()))

    def update(self, sample: Sample, output: BaseOutput) -> dict[str, PanopticMap]:
        """Scores one image and returns its maps by relation."""
        target = sample.target
        if target is None:
            raise ValueError(f"image {sample.image_id} ({sample.file_name}) has no annotations to score against")
        instances, stats = output.instances, output.stats
        matches = match_instances(instances, target.masks)
        maps = {}
        for name, model in self.relations.items():
            relation = model(instances, stats, image=sample.image, target=target)
            maps[name] = fuse(instances, stats, relation, output.semantic, self.policy)
            self.quality[name].update(maps[name], target.panoptic)
            self.accuracy[name].update(instances, stats, relation, matches, target.relation)
        for listener in self.listeners:
            listener(sample, output, maps)
        return maps

    def results(self) -> dict[str, PQResult]:
        """Panoptic quality by relation."""
        return {name: metric.compute() for name, metric in self.quality.items()}

    def rows(self) -> dict[str, dict[str, float]]:
        """One flat row of numbers a relation, ready for a table, a CSV file or a logger."""
        rows: dict[str, dict[str, float]] = {}
        for name, result in self.results().items():
            order = self.accuracy[name].compute()
            rows[name] = result.flat() | {
                "relation_accuracy": order.accuracy,
                "score_accuracy": order.score_accuracy,
                "area_accuracy": order.area_accuracy,
                "coverage": order.coverage,
                "pairs": order.pairs,
            }
        return rows
