"""Builds the parts of a run from its configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from panoptic_occ.config.grid import Grid, Values, changed
from panoptic_occ.config.instantiate import safe_instantiate
from panoptic_occ.data.loading.datamodule import PanopticDataModule
from panoptic_occ.data.relations.order_baselines import class_table
from panoptic_occ.evaluation.evaluator import Entry, Evaluation
from panoptic_occ.evaluation.recording import Recording
from panoptic_occ.fusion.policy import FusionPolicy
from panoptic_occ.metrics.average_precision import AveragePrecision
from panoptic_occ.metrics.breakdown import Binning
from panoptic_occ.network.panoptic_fpn import PanopticFPN
from panoptic_occ.occlusion.base import OcclusionModel
from panoptic_occ.occlusion.baselines.score import ScoreOrder
from panoptic_occ.runs.build import build_occlusion
from panoptic_occ.runs.loading import load_occlusion
from panoptic_occ.structures.categories import Categories


@dataclass(frozen=True, eq=False)
class Variant:
    """A relation of a comparison: its name in ``conf/occlusion``, its module, and its settings in a grid."""

    relation: str
    model: OcclusionModel
    values: Values = field(default_factory=dict)


def grid_variants(cfg: DictConfig, trained: OcclusionModel, categories: Categories) -> list[Variant]:
    """The run's own relation at every point of ``cfg.grid``, all with the weights of ``trained``: where training reads
    a setting too (``sig_ratio``), only what is made of the answers changes."""
    relation, variants = str(cfg.choices.occlusion), []
    for values in Grid(cfg).points("occlusion"):
        model = trained
        if values:
            other = cfg.copy()
            other.occlusion = changed(cfg.occlusion, values)
            model = build_occlusion(other, trained.in_channels, categories)
            model.load_state_dict(trained.state_dict(), assign=True)  # shared, not copied
        variants.append(Variant(relation, model, values))
    return variants


def variants_of(cfg: DictConfig, modules: Mapping[str, OcclusionModel], categories: Categories) -> list[Variant]:
    """Every relation of a comparison by name, the run's own one at every point of the grid."""
    own = str(cfg.choices.occlusion)
    points = (
        grid_variants(cfg, module, categories) if name == own else [Variant(name, module)]
        for name, module in modules.items()
    )
    return [variant for variants in points for variant in variants]


def build_evaluation(
    cfg: DictConfig,
    variants: Sequence[Variant],
    categories: Categories,
    recording: Recording | None = None,
    annotations: Path | None = None,
) -> Evaluation:
    """Every relation with the method's fusion policy, with each of ``cfg.policies`` (changes of that policy), and at
    each point of ``cfg.grid``.

    ``annotations``: COCO instances of the images, which the average precision reads if ``cfg`` asks for it.
    """
    grid, entries = Grid(cfg), []
    for title, changes in (cfg.policies or {"": {}}).items():
        merged = OmegaConf.merge(cfg.fusion, changes)
        assert isinstance(merged, DictConfig)
        for point in grid.points("fusion"):
            policy: FusionPolicy = safe_instantiate(changed(merged, point))
            for variant in variants:
                values = {**point, **variant.values}
                name = " | ".join(part for part in (variant.relation, str(title), grid.title(values)) if part)
                entries.append(Entry(name, variant.relation, variant.model, policy, str(title), values))
    return Evaluation(
        entries,
        categories,
        recording=recording,
        details=Binning(tuple(cfg.data.object_sizes)) if cfg.details else None,
        timing=cfg.timing,
        oracle=frozenset(cfg.oracle),
        average_precision=AveragePrecision(annotations, categories) if cfg.average_precision and annotations else None,
        score_thr=float(cfg.thing.get("score_thr", 0.0)),
    )


def build_validation(cfg: DictConfig, stage: str, model: PanopticFPN, categories: Categories) -> Evaluation | None:
    """The evaluation while ``stage`` trains: score order, and the method from the stage on that trains it.

    None when ``cfg.validate`` asks for none.
    """
    if cfg.validate.every is None:
        return None
    policy: FusionPolicy = safe_instantiate(cfg.fusion)
    score = ScoreOrder(in_channels=model.occlusion.in_channels, categories=categories)
    entries = [Entry("score", "score", score, policy)]
    if stage != "base":
        name = str(cfg.choices.occlusion)
        entries.append(Entry(name, name, model.occlusion, policy))
    return Evaluation(entries, categories)


def load_variants(
    cfg: DictConfig, methods: Mapping[str, DictConfig], in_channels: int, data: PanopticDataModule
) -> list[Variant]:
    """The compared relations with their weights, the run's own one at every point of the grid."""
    trained = {name: load_occlusion(own, in_channels, data.categories) for name, own in methods.items()}
    variants = variants_of(cfg, trained, data.categories)
    counting = [variant.model for variant in variants if "class_table" in variant.model.requires]
    if counting:
        table = class_table(data.train_data)
        for model in counting:
            model.use_class_table(table)
    return variants
