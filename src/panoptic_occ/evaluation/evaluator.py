"""Evaluates several relations, each with one or several fusion policies, side by side on the same detections."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from panoptic_occ.common.errors import ConfigError, did_you_mean
from panoptic_occ.config.schema import ORACLES
from panoptic_occ.evaluation.recording import Recording, asks_network, has_answers
from panoptic_occ.fusion.engine import fuse
from panoptic_occ.fusion.erasing import StuffLabels
from panoptic_occ.fusion.policy import FusionPolicy
from panoptic_occ.metrics.average_precision import AveragePrecision
from panoptic_occ.metrics.breakdown import AnnotatedThings, Binning, Breakdown, BreakdownResult
from panoptic_occ.metrics.order.canvas_accuracy import CanvasAccuracy
from panoptic_occ.metrics.order.profile import OrderProfile
from panoptic_occ.metrics.order.relation_accuracy import RelationAccuracy
from panoptic_occ.metrics.pq.core import PQCounts
from panoptic_occ.metrics.pq.metric import PanopticQuality, PQResult, panoptic_counts
from panoptic_occ.metrics.step_time import StepTime, timed
from panoptic_occ.occlusion.base import Context, OcclusionModel
from panoptic_occ.occlusion.baselines.oracle import with_annotated_order
from panoptic_occ.ops.matching import Match, best_boxes, match_instances
from panoptic_occ.structures.base_output import BaseOutput
from panoptic_occ.structures.categories import Categories
from panoptic_occ.structures.panoptic_map import PanopticMap
from panoptic_occ.structures.relation import Relation
from panoptic_occ.structures.sample import Sample
from panoptic_occ.stuff.ground_truth import annotated_stuff

MATCH_OF: Mapping[str, Match] = {"order": "mask", "order_by_box": "box"}
"""How the parts of ``oracle`` that tell the order find the annotation of a detection."""

Listener = Callable[[Sample, BaseOutput, Mapping[str, PanopticMap]], None]


@dataclass(frozen=True, eq=False)
class Entry:
    """One row of a comparison: a relation (its name in ``conf/occlusion`` and the module) and a policy.

    ``values``: the settings of its point of a grid, by dotted key.
    """

    name: str
    relation: str
    model: OcclusionModel
    policy: FusionPolicy
    policy_name: str = ""
    values: Mapping[str, object] = field(default_factory=dict)


class Fused(NamedTuple):
    """The map of one image and policy, its counts for the panoptic quality, and how long the fusion took."""

    panoptic: PanopticMap
    counts: PQCounts
    nanoseconds: int


class Evaluation:
    """Panoptic quality and relation accuracy of every entry, all on one set of detections.

    ``sig_ratio``: overlap from which a ground-truth pair counts for the relation accuracy.
    ``listeners`` see every image with its maps (pictures, result files); nothing else is kept, so memory is bounded.
    ``recording``: ask every network once about all pairs, so that entries with other thresholds share the answers and
    listeners can store them; None: ask it what each entry needs.
    ``details``: also break the quality of things down, by these bins, and count right orders as RAP does.
    ``timing``: also time relation and fusion (on one image at a time; without the network where its answers come from a
    file or a recording), and the base, which the caller reports by ``base_took``.
    ``average_precision``: also COCO's AP of all detections, the same for all entries; ``score_thr``: the lowest score
    that the base gives one.
    ``oracle``: what every entry gets from the annotations (ORACLES; BANet, Table 4); ``box`` and ``class`` must also be
    set in the thing branch.  ConfigError for an unknown one.
    """

    def __init__(
        self,
        entries: Sequence[Entry],
        categories: Categories,
        sig_ratio: float = 0.2,
        listeners: tuple[Listener, ...] = (),
        recording: Recording | None = None,
        details: Binning | None = None,
        timing: bool = False,
        oracle: frozenset[str] = frozenset(),
        average_precision: AveragePrecision | None = None,
        score_thr: float = 0.0,
    ) -> None:
        self.entries = tuple(replace(entry, policy=oracle_policy(entry.policy, oracle)) for entry in entries)
        self.listeners = listeners
        self.recording = recording
        self.details = details
        self.oracle = oracle
        self.num_things = categories.num_things
        self.num_categories = len(categories)
        self.quality = {entry.name: PanopticQuality(categories) for entry in entries}
        # a relation is a function of the instances that take part; no other threshold changes what is said of it
        orders: dict[Hashable, list[Entry]] = {}
        for entry in self.entries:
            orders.setdefault((id(entry.model), entry.policy.conf_thr), []).append(entry)
        self.orders = tuple(orders.values())
        self.accuracy: dict[str, RelationAccuracy] = {}
        self.profile: dict[str, OrderProfile] = {}
        for group in self.orders:
            names = [entry.name for entry in group]
            self.accuracy |= dict.fromkeys(names, RelationAccuracy(sig_ratio))
            self.profile |= dict.fromkeys(names, OrderProfile(sig_ratio))
        self.breakdown = {entry.name: Breakdown(categories, details) for entry in entries if details}
        self.on_canvas = {entry.name: CanvasAccuracy(sig_ratio) for entry in entries if details}
        self.relation_time = {entry.name: StepTime() for entry in entries if timing}
        self.fusion_time = {entry.name: StepTime() for entry in entries if timing}
        self.base_time = StepTime()
        self.average_precision = average_precision
        self.score_thr = score_thr if average_precision else 1.0
        details_of = self.breakdown, self.on_canvas
        groups = self.quality, self.accuracy, self.profile, *details_of, self.relation_time, self.fusion_time
        self.metrics = nn.ModuleList({id(metric): metric for group in groups for metric in group.values()}.values())
        self.metrics.extend([self.base_time, *([average_precision] if average_precision else [])])
        self.models = nn.ModuleList({id(entry.model): entry.model for entry in entries}.values())

    def begin(self, device: torch.device) -> None:
        """Moves relations and metrics to ``device``, and forgets what was counted.

        An evaluation is no part of the network: what it holds is neither trained nor saved in its checkpoints.
        """
        self.models.to(device).eval()
        self.metrics.to(device)
        for metric in self.metrics:
            assert isinstance(metric, Metric)
            metric.reset()

    @property
    def timing(self) -> bool:
        """Whether steps are timed."""
        return bool(self.relation_time)

    def base_took(self, nanoseconds: int, images: int) -> None:
        """Adds the time of the base for a batch."""
        self.base_time.update(nanoseconds, images)

    @property
    def requires(self) -> frozenset[str]:
        """Everything that any of the relations or policies reads."""
        recorded = self.recording.requires if self.recording else frozenset()
        return recorded.union(*(entry.model.requires | entry.policy.requires for entry in self.entries))

    @property
    def conf_thr(self) -> float:
        """The lowest score that any of the policies accepts, or that is to be recorded or ranked."""
        recorded = self.recording.conf_thr if self.recording else 1.0
        return min(recorded, self.score_thr, *(entry.policy.conf_thr for entry in self.entries))

    @property
    def networks(self) -> dict[str, OcclusionModel]:
        """The relations that ask the network and can keep its answers, by name; entries of one name share weights."""
        asking = (entry for entry in reversed(self.entries) if asks_network(entry.model))
        return {entry.relation: entry.model for entry in asking if has_answers(entry.model)}

    def update(self, sample: Sample, output: BaseOutput) -> dict[str, PanopticMap]:
        """Scores one image and returns its maps by entry."""
        if self.recording:
            output = self.recording.complete(output, self.networks)
        if self.average_precision is not None:
            self.average_precision.update(sample.image_id, output.instances)
        target, maps = sample.annotations, {}
        if "stuff" in self.oracle:
            labels = annotated_stuff(target, self.num_things).labels
            output = replace(output, semantic=replace(output.semantic, labels=labels, confidence={}))
        stuff = StuffLabels(output.semantic)
        things = AnnotatedThings.of(target, output.instances.masks, self.details) if self.details else None
        above = cache(output.above)
        matches = cache(lambda conf_thr: match_instances(above(conf_thr).instances, target.masks))
        closest = cache(lambda conf_thr: best_boxes(above(conf_thr).instances, target.boxes))
        fused: dict[Hashable, Fused] = {}
        for entries in self.orders:
            first, conf_thr = entries[0], entries[0].policy.conf_thr
            found = above(conf_thr)
            relation, relation_time = timed(self._relate, first, found, sample)
            seen = found.instances, found.stats, relation
            self.accuracy[first.name].update(*seen, partial(matches, conf_thr), target.relation)
            self.profile[first.name].update(*seen)
            decisions = _decisions(relation)
            for entry in entries:
                key = entry.name if self.fusion_time else (entry.policy, decisions)
                if key not in fused:
                    panoptic, time = timed(fuse, *seen, stuff.under(entry.policy), entry.policy)
                    source = f"image {sample.image_id} ({sample.file_name})"
                    counts = panoptic_counts(panoptic, target.panoptic, self.num_categories, source)
                    fused[key] = Fused(panoptic, counts, time)
                panoptic = maps[entry.name] = fused[key].panoptic
                self.quality[entry.name].update(fused[key].counts)
                if things is not None:
                    self.breakdown[entry.name].update(panoptic, found.instances, found.stats, things)
                    known = partial(closest, conf_thr), target.relation
                    self.on_canvas[entry.name].update(panoptic.records, relation, *known)
                if self.relation_time:
                    self.relation_time[entry.name].update(relation_time)
                    self.fusion_time[entry.name].update(fused[key].nanoseconds)
        for listener in self.listeners:
            listener(sample, output, maps)
        return maps

    def _relate(self, entry: Entry, output: BaseOutput, sample: Sample) -> Relation:
        relation = relate(entry, output, sample)
        for part in self.oracle & MATCH_OF.keys():
            seen = output.instances, output.stats, sample.annotations
            relation = with_annotated_order(relation, *seen, MATCH_OF[part])
        return relation

    def results(self) -> dict[str, PQResult]:
        """Panoptic quality by entry."""
        return {name: metric.compute() for name, metric in self.quality.items()}

    def breakdowns(self) -> dict[str, BreakdownResult]:
        """The breakdown of things by entry; empty without ``details``."""
        return {name: metric.compute() for name, metric in self.breakdown.items()}

    def rows(self) -> dict[str, dict[str, float]]:
        """One flat row of numbers an entry, ready for a table, a CSV file or a logger."""
        rows: dict[str, dict[str, float]] = {}
        precision = {} if self.average_precision is None else self.average_precision.compute()
        for name, result in self.results().items():
            order = self.accuracy[name].compute()
            rows[name] = result.flat() | {
                "relation_accuracy": order.accuracy,
                "score_accuracy": order.score_accuracy,
                "area_accuracy": order.area_accuracy,
                "coverage": order.coverage,
                "pairs": order.pairs,
                **self.profile[name].compute().as_dict(),
                **precision,
            }
            if self.on_canvas:
                canvas = self.on_canvas[name].compute()
                rows[name] |= {"relation_accuracy_rap": canvas.accuracy, "pairs_rap": canvas.pairs}
            if self.relation_time:
                rows[name]["relation_ms"] = relation_ms = self.relation_time[name].compute()
                rows[name]["network_ms"] = self.base_time.compute() + relation_ms
                rows[name]["fusion_ms"] = self.fusion_time[name].compute()
                rows[name]["FPS"] = 1000 / (rows[name]["network_ms"] + rows[name]["fusion_ms"])
        return rows


def oracle_policy(policy: FusionPolicy, oracle: frozenset[str]) -> FusionPolicy:
    """``policy`` for parts from the annotations: an annotated box counts whatever its score, and annotated stuff is
    sure whatever the network says.  ConfigError for an unknown part, and for both ways to tell the order."""
    for part in sorted(oracle.difference(ORACLES)):
        raise ConfigError(f"oracle=[{part}] is unknown; {did_you_mean(part, ORACLES)}")
    if oracle >= MATCH_OF.keys():
        raise ConfigError(f"oracle=[{','.join(MATCH_OF)}]: two ways to match annotations; leave one of them out")
    if "box" in oracle:
        policy = replace(policy, conf_thr=0.0)
    if "stuff" in oracle:
        policy = replace(policy, erase_thr=None)
    return policy


def relate(entry: Entry, output: BaseOutput, sample: Sample) -> Relation:
    """The relation of one image, from saved answers where ``output`` has them."""
    model = entry.model
    if entry.relation in output.head_outputs:
        return model.relate(output.instances, output.stats, output.head_outputs[entry.relation])
    relation: Relation = model(output.instances, output.stats, context_of(sample, output, model.requires))
    return relation


def _decisions(relation: Relation) -> Hashable:
    """All that the fusion reads of a relation: where two agree in it, one policy makes one map of both."""
    if relation.claims is not None or relation.stuff is not None:
        return relation  # equal to itself only
    read = relation.above(), relation.order, relation.duplicate_of
    return tuple(None if part is None else part.cpu().numpy().tobytes() for part in read)


def context_of(sample: Sample, output: BaseOutput, requires: frozenset[str]) -> Context:
    """What a relation may look at beside the detections."""
    image: Tensor | None = sample.original_image if "image" in requires else None
    semantic = output.semantic if "semantic_logits" in requires else None
    return Context(image, sample.target if "target" in requires else None, semantic)
