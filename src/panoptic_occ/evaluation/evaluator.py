"""Evaluates several orders, each with one or several fusion policies, side by side on the same detections."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial

import torch
from torch import nn
from torchmetrics import Metric

from panoptic_occ.common.errors import ConfigError, did_you_mean
from panoptic_occ.config.schema import ORACLES
from panoptic_occ.fusion.engine import FusionPolicy, fuse
from panoptic_occ.fusion.erasing import StuffLabels, component_confidence
from panoptic_occ.fusion.policy import Dilation
from panoptic_occ.metrics.average_precision import AveragePrecision
from panoptic_occ.metrics.breakdown import AnnotatedThings, Binning, Breakdown, BreakdownResult
from panoptic_occ.metrics.counting import ImageCount, StepTime, timed
from panoptic_occ.metrics.order.profile import OrderProfile
from panoptic_occ.metrics.order.relation_accuracy import CanvasAccuracy, RelationAccuracy
from panoptic_occ.metrics.pq.core import PQCounts
from panoptic_occ.metrics.pq.metric import PanopticQuality, PQResult, panoptic_counts
from panoptic_occ.occlusion.base import Context, OcclusionModel
from panoptic_occ.occlusion.baselines.ground_truth import with_annotated_order
from panoptic_occ.ops.matching import Match, best_boxes, match_instances
from panoptic_occ.structures.base_output import BaseOutput
from panoptic_occ.structures.categories import Categories
from panoptic_occ.structures.panoptic_map import PanopticMap
from panoptic_occ.structures.relation import Relation
from panoptic_occ.structures.sample import Sample
from panoptic_occ.stuff.ground_truth import annotated_stuff

MATCH_OF: Mapping[str, Match] = {"order": "mask", "order_by_box": "box"}
"""By what the parts of ``oracle`` that tell the order match detections and annotations."""
FROM_NETWORK = frozenset({"soft", "roi_features"})

Listener = Callable[[Sample, BaseOutput, Mapping[str, PanopticMap]], None]


@dataclass(frozen=True, eq=False)
class Entry:
    """One row of a comparison: an order (its name in ``conf/occlusion``, and its module) and a policy of the fusion;
    ``values``: the settings of its point of a grid, by dotted key."""

    name: str
    order: str
    model: OcclusionModel
    policy: FusionPolicy
    policy_name: str = ""
    values: Mapping[str, object] = field(default_factory=dict)


class EntryMetrics(nn.Module):
    """What is measured of one entry, and nothing else, as a grid has thousands; what is measured of its relations is
    shared with an ``other`` entry that has the same ones."""

    def __init__(self, evaluation: Evaluation, other: EntryMetrics | None) -> None:
        super().__init__()
        categories, sig_ratio, details = evaluation.categories, evaluation.sig_ratio, evaluation.details
        self.accuracy: RelationAccuracy = other.accuracy if other else RelationAccuracy(sig_ratio)
        self.profile: OrderProfile = other.profile if other else OrderProfile(sig_ratio)
        self.relation_time: StepTime = other.relation_time if other else StepTime()
        self.quality = PanopticQuality(categories)
        self.fusion_time = StepTime() if evaluation.timing else None
        self.breakdown = Breakdown(categories, details) if details else None
        self.on_canvas = CanvasAccuracy(sig_ratio) if details else None

    def row(self, precision: Mapping[str, float], base_ms: float | None) -> dict[str, float]:
        """All numbers by name, with the average ``precision``; ``base_ms``: time of the base an image, if timed."""
        accuracy = self.accuracy.compute()
        row: dict[str, float] = self.quality.result().flat() | {
            "relation_accuracy": accuracy.accuracy,
            "score_accuracy": accuracy.score_accuracy,
            "area_accuracy": accuracy.area_accuracy,
            "coverage": accuracy.coverage,
            "pairs": accuracy.pairs,
            **self.profile.compute()._asdict(),
            **precision,
        }
        if self.on_canvas is not None:
            canvas = self.on_canvas.compute()
            row |= {"relation_accuracy_rap": canvas.accuracy, "pairs_rap": canvas.pairs}
        if self.fusion_time is not None and base_ms is not None:
            relation_ms, fusion_ms = self.relation_time.compute(), self.fusion_time.compute()
            network_ms = base_ms + relation_ms
            times = {"relation_ms": relation_ms, "network_ms": network_ms, "fusion_ms": fusion_ms}
            row |= times | {"FPS": 1000 / (network_ms + fusion_ms)}
        return row


@dataclass(frozen=True)
class Recording:
    """What an evaluation asks the network for once, so that thresholds and policies can be applied to it later:
    detections from score ``conf_thr`` on, and the confidence of the stuff components under ``dilations`` (REFINE's
    unknown erasing), if the stuff branch has probabilities."""

    conf_thr: float = 1.0
    dilations: tuple[Dilation, ...] = ()

    @property
    def requires(self) -> frozenset[str]:
        """What the base must compute for it."""
        return frozenset({"semantic_logits"} if self.dilations else ())

    def complete(self, output: BaseOutput, models: Mapping[str, OcclusionModel]) -> BaseOutput:
        """``output`` with the head outputs of ``models`` about all pairs and the confidences of the stuff."""
        outputs = {
            name: model.head_outputs(output.instances, output.stats, wide=True) for name, model in models.items()
        }
        semantic = output.semantic
        if semantic.logits is not None:
            confidence = {dilation.name: component_confidence(semantic, dilation) for dilation in self.dilations}
            semantic = replace(semantic, confidence={**semantic.confidence, **confidence})
        return replace(output, semantic=semantic, head_outputs={**output.head_outputs, **outputs})


@dataclass(eq=False)
class Evaluation:
    """Panoptic quality and relation accuracy of every entry, all on one set of detections.

    ``sig_ratio``: overlap from which a ground-truth pair counts for the relation accuracy.
    ``listeners`` see every image with its maps (pictures, result files); nothing else is kept, so memory is bounded.
    ``recording``: ask every network once about all pairs, so that entries with other thresholds share the outputs and
    listeners can store them; None: ask it what each entry needs.
    ``details``: also break the quality of things down, by these bins, and count right orders as RAP does.
    ``timing``: also time relation and fusion (on one image at a time; without the network where its outputs come from a
    file or a recording), and the base, which the caller adds to ``base_time``.
    ``average_precision``: also COCO's AP of all detections, the same for all entries; ``score_thr``: the lowest score
    that the base gives one.
    ``oracle``: what every entry gets from the annotations (ORACLES; BANet, Table 4); ``box`` and ``class`` must also be
    set in the thing branch.  ConfigError for an unknown one.
    """

    entries: Sequence[Entry]
    categories: Categories
    sig_ratio: float = 0.2
    listeners: tuple[Listener, ...] = ()
    recording: Recording | None = None
    details: Binning | None = None
    timing: bool = False
    oracle: frozenset[str] = frozenset()
    average_precision: AveragePrecision | None = None
    score_thr: float = 0.0

    def __post_init__(self) -> None:
        self.entries = tuple(replace(entry, policy=oracle_policy(entry.policy, self.oracle)) for entry in self.entries)
        self.score_thr = self.score_thr if self.average_precision else 1.0
        self.base_time, self.images = StepTime(), ImageCount()
        self.by_entry: dict[str, EntryMetrics] = {}
        self.groups: dict[Hashable, list[Entry]] = {}
        for entry in self.entries:
            # a relation is a function of the instances that take part; no other threshold changes what is said of it
            group = self.groups.setdefault((id(entry.model), entry.policy.conf_thr), [])
            group.append(entry)
            self.by_entry[entry.name] = EntryMetrics(self, self.by_entry.get(group[0].name))
        precision = [self.average_precision] if self.average_precision else []
        modules = nn.ModuleList([self.images, self.base_time, *self.by_entry.values(), *precision]).modules()
        self.metrics: list[Metric] = [metric for metric in modules if isinstance(metric, Metric)]
        self.models = nn.ModuleList(dict.fromkeys(entry.model for entry in self.entries))

    def begin(self, device: torch.device) -> None:
        """Moves orders and metrics to ``device``, and forgets what was counted.

        An evaluation is no part of the network: what it holds is neither trained nor saved in its checkpoints.
        """
        self.models.to(device).eval()
        for metric in self.metrics:
            metric.to(device).reset()

    @property
    def requires(self) -> frozenset[str]:
        """Everything that any of the orders or policies reads."""
        recorded = self.recording.requires if self.recording else frozenset()
        return recorded.union(*(entry.model.requires | entry.policy.requires for entry in self.entries))

    @property
    def conf_thr(self) -> float:
        """The lowest score that any of the policies accepts, or that is to be recorded or ranked."""
        recorded = self.recording.conf_thr if self.recording else 1.0
        return min(recorded, self.score_thr, *(entry.policy.conf_thr for entry in self.entries))

    @property
    def networks(self) -> dict[str, OcclusionModel]:
        """The orders that ask the network and can keep its outputs, by name; entries of one name share weights."""
        return {entry.order: entry.model for entry in reversed(self.entries) if has_head_outputs(entry.model)}

    def update(self, sample: Sample, output: BaseOutput) -> dict[str, PanopticMap]:
        """Scores one image and returns its maps by entry."""
        if self.recording:
            output = self.recording.complete(output, self.networks)
        if self.average_precision is not None:
            self.average_precision.update(sample.image_id, output.instances)
        target, maps = sample.annotations, {}
        if "stuff" in self.oracle:
            labels = annotated_stuff(target, self.categories.num_things).labels
            output = replace(output, semantic=replace(output.semantic, labels=labels, confidence={}))
        stuff = StuffLabels(output.semantic)
        things = AnnotatedThings.of(target, output.instances.masks, self.details) if self.details else None
        above = cache(output.above)
        matches = cache(lambda conf_thr: match_instances(above(conf_thr).instances, target.masks))
        closest = cache(lambda conf_thr: best_boxes(above(conf_thr).instances, target.boxes))
        fused: dict[Hashable, tuple[PanopticMap, PQCounts, int]] = {}
        source = f"image {sample.image_id} ({sample.file_name})"
        for entries in self.groups.values():
            first, conf_thr = entries[0], entries[0].policy.conf_thr
            detections = above(conf_thr)
            relation, relation_time = timed(relate, first, detections, sample, self.oracle)
            inputs = detections.instances, detections.stats, relation
            shared = self.by_entry[first.name]
            shared.accuracy.update(*inputs, partial(matches, conf_thr), target.relation)
            shared.profile.update(*inputs)
            shared.relation_time.update(relation_time)
            decisions = _decisions(relation)
            for entry in entries:
                key = entry.name if self.timing else (entry.policy, decisions)
                if key not in fused:
                    panoptic, time = timed(fuse, *inputs, stuff.under(entry.policy), entry.policy, self.categories)
                    counts = panoptic_counts(panoptic, target.panoptic, len(self.categories), source)
                    fused[key] = panoptic, counts, time
                panoptic, counts, fusion_time = fused[key]
                maps[entry.name], metrics = panoptic, self.by_entry[entry.name]
                metrics.quality.update(counts)
                if metrics.fusion_time is not None:
                    metrics.fusion_time.update(fusion_time)
                if things is not None and metrics.breakdown is not None and metrics.on_canvas is not None:
                    metrics.breakdown.update(panoptic, detections.instances, detections.stats, things)
                    metrics.on_canvas.update(panoptic.records, relation, partial(closest, conf_thr), target.relation)
        self.images.update()
        for listener in self.listeners:
            listener(sample, output, maps)
        return maps

    def results(self) -> dict[str, PQResult]:
        """Panoptic quality by entry."""
        return {name: metrics.quality.result() for name, metrics in self.by_entry.items()}

    def breakdowns(self) -> dict[str, BreakdownResult]:
        """The breakdown of things by entry; empty without ``details``."""
        return {name: m.breakdown.compute() for name, m in self.by_entry.items() if m.breakdown is not None}

    def rows(self) -> dict[str, dict[str, float]]:
        """One flat row of numbers an entry, ready for a table, a CSV file or a logger."""
        precision = {} if self.average_precision is None else self.average_precision.compute()
        base_ms = self.base_time.compute() if self.timing else None
        return {name: metrics.row(precision, base_ms) for name, metrics in self.by_entry.items()}


def has_head_outputs(model: OcclusionModel) -> bool:
    """Whether an order reads what only the network gives, and what the network says of it can be recorded."""
    return bool(model.requires & FROM_NETWORK) and type(model).head_outputs is not OcclusionModel.head_outputs


def oracle_policy(policy: FusionPolicy, oracle: frozenset[str]) -> FusionPolicy:
    """``policy`` for parts from the annotations: an annotated box counts whatever its score, and annotated stuff is
    certain whatever the network says.  ConfigError for an unknown part, and for both ways to tell the order."""
    for part in sorted(oracle.difference(ORACLES)):
        raise ConfigError(f"oracle=[{part}] is unknown; {did_you_mean(part, ORACLES)}")
    if oracle >= MATCH_OF.keys():
        raise ConfigError(f"oracle=[{','.join(MATCH_OF)}]: two ways to match annotations; leave one of them out")
    if "box" in oracle:
        policy = replace(policy, conf_thr=0.0)
    if "stuff" in oracle:
        policy = replace(policy, erase_thr=None)
    return policy


def relate(entry: Entry, output: BaseOutput, sample: Sample, oracle: frozenset[str]) -> Relation:
    """The relation of one image, from the network's recorded outputs where ``output`` has them; ``oracle`` may put the
    annotated order into it."""
    model, inputs = entry.model, (output.instances, output.stats)
    relation: Relation
    if entry.order in output.head_outputs:
        relation = model.relate(*inputs, output.head_outputs[entry.order])
    else:
        image = sample.original_image if "image" in model.requires else None
        target = sample.target if "target" in model.requires else None
        semantic = output.semantic if "semantic_logits" in model.requires else None
        relation = model(*inputs, Context(image, target, semantic))
    for part in oracle & MATCH_OF.keys():
        relation = with_annotated_order(relation, *inputs, sample.annotations, MATCH_OF[part])
    return relation


def _decisions(relation: Relation) -> Hashable:
    """All that the fusion reads of a relation: of two relations that agree in it, one policy makes the same map."""
    if relation.claims is not None or relation.stuff is not None:
        return relation  # equal to itself only
    parts = relation.above(), relation.order, relation.duplicate_of
    return tuple(None if part is None else part.cpu().numpy().tobytes() for part in parts)
