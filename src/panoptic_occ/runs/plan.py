"""What one command is about: its folders, the network, the orders and the evaluation, fixed before any work.

``runs.build.run_plan`` makes a plan of a configuration, once; nothing that works by it sees the configuration.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from panoptic_occ.backbone.sharing import share_features
from panoptic_occ.common.seeding import stable_seed
from panoptic_occ.config.grid import Grid, Values, inside
from panoptic_occ.config.instantiate import Blueprint
from panoptic_occ.data.loading.datamodule import PanopticDataModule
from panoptic_occ.exchange.base import Exchange
from panoptic_occ.fusion.engine import FusionPolicy
from panoptic_occ.network.panoptic_fpn import PanopticFPN
from panoptic_occ.network.tta import TestTimeAugmentation
from panoptic_occ.occlusion.base import OcclusionModel
from panoptic_occ.runs.folders import RunFolder
from panoptic_occ.structures.categories import Categories
from panoptic_occ.stuff.base import StuffBranch
from panoptic_occ.thing.base import ThingBranch


@dataclass(frozen=True, eq=False)
class BasePlan:
    """The network below the orders: what it is built from, where its weights are, and what they depend on.

    ``settings``: everything that its weights depend on, by dotted key; ``key``: ten hex digits of them.
    """

    folder: RunFolder
    key: str
    settings: Values
    seed: int
    backbone: Blueprint[Any]
    share: Any
    thing: Blueprint[ThingBranch]
    stuff: Blueprint[StuffBranch]
    exchange: Blueprint[Exchange]
    loss_weights: Mapping[str, float]
    channels_last: bool
    compile: bool
    joint: bool
    schedule: Blueprint[Any]


@dataclass(frozen=True, eq=False)
class OrderPlan:
    """One of the compared orders: its module, how that trains, and where its weights are.

    ``points``: its settings at every point of a grid, by dotted key.  ``config``: the configuration as a file of its
    folder, ``hyperparameters`` as trackers get it.  ``command``: the command that trains it.
    """

    name: str
    blueprint: Blueprint[OcclusionModel]
    seed: int
    schedule: Blueprint[Any]
    folder: RunFolder
    config: str
    hyperparameters: Mapping[str, Any] = field(repr=False)
    command: str
    points: Sequence[Values]

    @property
    def requires(self) -> frozenset[str]:
        """What its module reads, by its class (``OcclusionModel.requires``)."""
        try:
            return frozenset(getattr(pkgutil.resolve_name(self.blueprint.node["_target_"]), "requires", ()))
        except (ImportError, AttributeError, ValueError, KeyError):  # building the module says what is wrong
            return frozenset()

    def build(self, in_channels: int, categories: Categories, point: Values | None = None) -> OcclusionModel:
        """The module with fresh weights, a function of the seed; ``point``: one of ``points``."""
        seed_part(self.seed, "occlusion")
        blueprint = self.blueprint.changed(inside("occlusion", point)) if point else self.blueprint
        return blueprint.build(in_channels=in_channels, categories=categories)


@dataclass(frozen=True)
class PolicyPlan:
    """A fusion policy of an evaluation: its title, and the settings of its point of the grid by dotted key."""

    title: str
    values: Values
    policy: FusionPolicy


@dataclass(frozen=True, eq=False)
class EvaluationPlan:
    """What an evaluation measures, and what it writes.

    ``settings``: everything that changes its numbers, by dotted key.  ``name``: of the words that differ from training.
    ``predictions``: folder of the stored detections with ``detection_settings``, all that these depend on.  ``advice``:
    how to store them, the end of errors.  ``erase_radius``: by which stored stuff can be erased.  ``own_data``: what is
    evaluated is the data of the run.
    """

    settings: Values
    name: str
    policies: Sequence[PolicyPlan]
    grid: Grid
    oracle: frozenset[str]
    details: tuple[float, float] | None
    timing: bool
    average_precision: bool
    score_thr: float
    tta: Blueprint[TestTimeAugmentation]
    predictions: Path
    detection_settings: Values
    advice: str
    saved: bool
    save_maps: bool
    save_predictions: bool
    save_conf_thr: float
    erase_radius: int
    own_data: bool


@dataclass(frozen=True, eq=False)
class RunPlan:
    """One command from its configuration to its folders.

    ``folder``: of the run; ``training_folders``: those that the words name without the ones of the evaluation, from the
    most words to the fewest.
    ``data_choice``: of ``conf/data``.  ``method``: the order that the run is about.  ``orders``: all compared ones, the
    ceiling last.  ``data``: what is evaluated; ``training_data``: what the base learned from, the same unless
    ``run=`` is evaluated on other data.  ``training``: the settings of all weights, by dotted
    key.  ``options``: what the command does beside computing (``force``, ``output``).  ``words``: of the command line.
    """

    folder: RunFolder
    training_folders: Sequence[RunFolder]
    runs_dir: Path
    data_choice: str
    data_name: str
    seed: int
    method: str
    orders: Sequence[OrderPlan]
    base: BasePlan
    data: Blueprint[PanopticDataModule]
    training_data: Blueprint[PanopticDataModule]
    policy: FusionPolicy
    evaluation: EvaluationPlan
    trainer: Blueprint[Any]
    loggers: Mapping[str, Blueprint[Any]]
    validate_every: int | None
    validate_images: int
    processes: int | None
    options: Mapping[str, Any]
    training: Values
    words: Sequence[str]

    @property
    def force(self) -> bool:
        """Whether finished work is done again."""
        return bool(self.options["force"])

    @property
    def debugging(self) -> bool:
        """Whether ``train`` only tries everything (``trainer.fast_dev_run``), in a folder that it removes."""
        return bool(self.trainer.settings.get("fast_dev_run"))

    @property
    def order(self) -> OrderPlan:
        """The order that the run is about."""
        return next(order for order in self.orders if order.name == self.method)


def seed_part(seed: int, part: str) -> None:
    """Makes the weights of a part of the network a function of ``seed`` alone, whatever the other parts are."""
    torch.manual_seed(stable_seed(seed, part))


def prepared_data(blueprint: Blueprint[PanopticDataModule]) -> PanopticDataModule:
    """The data module, with its data prepared."""
    data = blueprint.build()
    data.prepare_data()
    return data


def build_model(plan: RunPlan, categories: Categories) -> PanopticFPN:
    """The network of ``plan`` with weights that are a function of the seed, module by module, so that choosing another
    order does not change the base."""
    base = plan.base
    seed_part(base.seed, "backbone")
    backbone: Any = share_features(_backbone(base).build(), base.share)
    parts = {"in_channels": backbone.out_channels, "categories": categories}
    seed_part(base.seed, "thing")
    thing = base.thing.build(**parts)
    seed_part(base.seed, "stuff")
    stuff = base.stuff.build(**parts)
    seed_part(base.seed, "exchange")
    exchange = base.exchange.build(**parts, stuff=stuff)
    occlusion = plan.order.build(backbone.out_channels, categories)
    model = PanopticFPN(
        backbone, thing, stuff, exchange, occlusion, base.loss_weights, channels_last=base.channels_last
    )
    model.tta = plan.evaluation.tta.build()
    return model


def _backbone(base: BasePlan) -> Blueprint[Any]:
    """The backbone, without pretrained weights where a trained base replaces them: nothing need be downloaded."""
    settings = base.backbone.settings
    if settings.get("weights") is None or not base.folder.weights("base").exists():
        return base.backbone
    # a base is frozen whole
    return base.backbone.changed({"weights": None, **({"frozen_stages": 0} if "frozen_stages" in settings else {})})
