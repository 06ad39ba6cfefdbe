"""Evaluates several relations, each with one or several fusion policies, side by side on the same detections."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from panoptic_occ.categories import Categories
from panoptic_occ.fusion.engine import FusionPolicy, fuse
from panoptic_occ.metrics.panoptic_quality import PanopticQuality, PQResult
from panoptic_occ.metrics.relation_accuracy import RelationAccuracy
from panoptic_occ.model import BaseOutput
from panoptic_occ.occlusion.base import OcclusionModel
from panoptic_occ.occlusion.matching import match_instances
from panoptic_occ.structures import Context, PanopticMap, Relation, Sample

Listener = Callable[[Sample, BaseOutput, Mapping[str, PanopticMap]], None]


@dataclass(frozen=True, eq=False)
class Entry:
    """One row of a comparison: a relation (its name in ``conf/occlusion`` and the module) and a policy."""

    name: str
    relation: str
    model: OcclusionModel
    policy: FusionPolicy
    policy_name: str = ""


class Evaluation(nn.Module):
    """Panoptic quality and relation accuracy of every entry, all on one set of detections.

    ``sig_ratio``: overlap from which a ground-truth pair counts for the relation accuracy.
    ``listeners`` see every image with its maps (pictures, result files); nothing else is kept, so memory is bounded.
    """

    def __init__(
        self,
        entries: Sequence[Entry],
        categories: Categories,
        sig_ratio: float = 0.2,
        listeners: tuple[Listener, ...] = (),
    ) -> None:
        super().__init__()
        self.entries = tuple(entries)
        self.listeners = listeners
        self.quality = {entry.name: PanopticQuality(categories) for entry in entries}
        self.accuracy = {entry.name: RelationAccuracy(sig_ratio) for entry in entries}
        # as a list, so that the metrics move with the module to its device
        self.metrics = nn.ModuleList([*self.quality.values(), *self.accuracy.values()])
        self.models = nn.ModuleList({id(entry.model): entry.model for entry in entries}.values())

    @property
    def requires(self) -> frozenset[str]:
        """Everything that any of the relations reads."""
        return frozenset().union(*(entry.model.requires for entry in self.entries))

    @property
    def conf_thr(self) -> float:
        """The lowest score that any of the policies accepts."""
        return min(entry.policy.conf_thr for entry in self.entries)

    def update(self, sample: Sample, output: BaseOutput) -> dict[str, PanopticMap]:
        """Scores one image and returns its maps by entry."""
        target = sample.annotations
        matches = match_instances(output.instances, target.masks)
        seen: dict[float, BaseOutput] = {}
        relations: dict[tuple[int, float], Relation] = {}
        maps = {}
        for entry in self.entries:
            conf_thr = entry.policy.conf_thr
            if conf_thr not in seen:
                seen[conf_thr] = output.above(conf_thr)
            found = seen[conf_thr]
            key = (id(entry.model), conf_thr)
            if key not in relations:  # which instances take part can change a relation, the other thresholds cannot
                relations[key] = relate(entry, found, sample)
            panoptic = fuse(found.instances, found.stats, relations[key], found.semantic.labels, entry.policy)
            maps[entry.name] = panoptic
            self.quality[entry.name].update(panoptic, target.panoptic)
            here = matches[: len(found.instances)]
            self.accuracy[entry.name].update(found.instances, found.stats, relations[key], here, target.relation)
        for listener in self.listeners:
            listener(sample, output, maps)
        return maps

    def results(self) -> dict[str, PQResult]:
        """Panoptic quality by entry."""
        return {name: metric.compute() for name, metric in self.quality.items()}

    def rows(self) -> dict[str, dict[str, float]]:
        """One flat row of numbers an entry, ready for a table, a CSV file or a logger."""
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


def relate(entry: Entry, output: BaseOutput, sample: Sample) -> Relation:
    """The relation of one image, from saved answers where ``output`` has them."""
    model = entry.model
    if entry.relation in output.answers:
        return model.relate(output.instances, output.stats, output.answers[entry.relation])
    relation: Relation = model(output.instances, output.stats, context_of(sample, output, model.requires))
    return relation


def context_of(sample: Sample, output: BaseOutput, requires: frozenset[str]) -> Context:
    """What a relation may look at beside the detections."""
    image: Tensor | None = sample.original_image if "image" in requires else None
    semantic = output.semantic if "semantic_logits" in requires else None
    return Context(image, sample.target if "target" in requires else None, semantic)
