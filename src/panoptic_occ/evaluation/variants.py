"""The rows of a comparison: every order, with every fusion policy, at every point of a grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from panoptic_occ.common.errors import DataError
from panoptic_occ.config.grid import Values
from panoptic_occ.data.loading.datamodule import PanopticDataModule
from panoptic_occ.data.relations.statistics import class_table
from panoptic_occ.evaluation.evaluator import Entry, Evaluation, Recording
from panoptic_occ.metrics.average_precision import AveragePrecision
from panoptic_occ.metrics.breakdown import Binning
from panoptic_occ.network.panoptic_fpn import PanopticFPN
from panoptic_occ.occlusion.base import OcclusionModel
from panoptic_occ.occlusion.baselines.score import ScoreOrder
from panoptic_occ.runs.loading import load_order
from panoptic_occ.runs.plan import OrderPlan, RunPlan, prepared_data
from panoptic_occ.runs.weights import WEIGHTS
from panoptic_occ.structures.categories import Categories


@dataclass(frozen=True, eq=False)
class Variant:
    """An order of a comparison: its name in ``conf/occlusion``, its module, and its settings in a grid."""

    order: str
    model: OcclusionModel
    values: Values = field(default_factory=dict)


def variants_of(
    orders: Sequence[OrderPlan], modules: Mapping[str, OcclusionModel], categories: Categories
) -> list[Variant]:
    """Every order with its module, and at every point of its grid with the weights of that: where training reads a
    setting too (``sig_ratio``), only what is made of the network's outputs changes."""
    variants = []
    for order in orders:
        trained = modules[order.name]
        for values in order.points:
            module = trained
            if values:
                module = order.build(trained.in_channels, categories, values)
                module.load_state_dict(trained.state_dict(), assign=True)  # shared, not copied
            variants.append(Variant(order.name, module, values))
    return variants


def load_variants(plan: RunPlan, in_channels: int, data: PanopticDataModule) -> list[Variant]:
    """The compared orders with their weights, the run's own one at every point of the grid."""
    trained = {order.name: load_order(order, plan.base, in_channels, data.categories) for order in plan.orders}
    variants = variants_of(plan.orders, trained, data.categories)
    counting = [variant.model for variant in variants if "class_table" in variant.model.requires]
    if counting:
        table = class_table(_training_data(plan, data).train_data)
        for model in counting:
            model.use_class_table(table)
    return variants


def content_of(plan: RunPlan, data: PanopticDataModule) -> dict[str, str]:
    """Fingerprints of all data that the numbers of an evaluation depend on beside the weights."""
    content = {"images and annotations": data.eval_data.fingerprint}
    if any("class_table" in order.requires for order in plan.orders):
        training = _training_data(plan, data)
        if training is data:
            data.setup("fit")  # counts are by label, which the two splits must share
        content["counted annotations"] = training.train_data.annotation_fingerprint
    return content


def _training_data(plan: RunPlan, data: PanopticDataModule) -> PanopticDataModule:
    """The data that the base learned from: those of the evaluation, also from another place, or else the run's."""
    weights = plan.base.folder.weights("base")
    if not plan.evaluation.own_data and weights.exists():
        with suppress(DataError):  # data to evaluate on need have no training split
            if WEIGHTS.read_header(weights).get("data") == data.source.fingerprint():
                return data
    return data if plan.evaluation.own_data else prepared_data(plan.training_data)


def build_evaluation(
    plan: RunPlan,
    variants: Sequence[Variant],
    categories: Categories,
    recording: Recording | None = None,
    annotations: Path | None = None,
) -> Evaluation:
    """Every order with each fusion policy, at each point of the grid.

    ``annotations``: COCO instances of the images, which the average precision reads if the plan asks for it.
    """
    evaluation, entries = plan.evaluation, []
    precision = AveragePrecision(annotations, categories) if evaluation.average_precision and annotations else None
    for policy in evaluation.policies:
        for variant in variants:
            values = {**policy.values, **variant.values}
            parts = variant.order, policy.title, evaluation.grid.title(values)
            name = " | ".join(part for part in parts if part)
            entries.append(Entry(name, variant.order, variant.model, policy.policy, policy.title, values))
    return Evaluation(
        entries,
        categories,
        recording=recording,
        details=Binning(evaluation.details) if evaluation.details else None,
        timing=evaluation.timing,
        oracle=evaluation.oracle,
        average_precision=precision,
        score_thr=evaluation.score_thr,
    )


def build_validation(
    plan: RunPlan, order: OrderPlan, stage: str, model: PanopticFPN, categories: Categories
) -> Evaluation | None:
    """The evaluation while ``stage`` trains: score order, and ``order`` from the stage on that trains it.

    None when the plan asks for none.
    """
    if plan.validate_every is None:
        return None
    score = ScoreOrder(in_channels=model.occlusion.in_channels, categories=categories)
    entries = [Entry("score", "score", score, plan.policy)]
    if stage != "base":
        entries.append(Entry(order.name, order.name, model.occlusion, plan.policy))
    return Evaluation(entries, categories)
