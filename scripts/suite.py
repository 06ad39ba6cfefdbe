"""All that the scripts ask the package about configurations, run folders and building parts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig

from panoptic_occ.commands.sweeps import last_error
from panoptic_occ.common.files import read_json
from panoptic_occ.config.compose import compose
from panoptic_occ.config.files import conf_dir, group_choices
from panoptic_occ.config.schema import in_names
from panoptic_occ.data.loading.datamodule import PanopticDataModule
from panoptic_occ.network.panoptic_fpn import PanopticFPN
from panoptic_occ.runs import plan as plans
from panoptic_occ.runs.build import comparable_of, plan_of, run_plan
from panoptic_occ.runs.environment import environment
from panoptic_occ.runs.folders import finished
from panoptic_occ.runs.plan import RunPlan
from panoptic_occ.runs.predictions import PredictionFiles
from panoptic_occ.structures.categories import Categories

__all__ = [
    "Run", "build_data", "build_model", "compose", "conf_dir", "environment", "group_choices", "last_error", "plan_of",
    "result_words", "swept",
]  # fmt: skip


@dataclass(frozen=True)
class Run:
    """A run of ``train`` by its plan: its folder, weight files, folder of predictions, and the file of its results."""

    config: DictConfig
    plan: RunPlan
    folder: Path
    base: Path
    module: Path
    predictions: Path
    metrics: Path

    @classmethod
    def of(cls, words: Sequence[str]) -> Run:
        """The run that the words of a command describe."""
        config = compose(words)
        plan = run_plan(config, words)
        base, module = plan.base.folder.weights("base"), plan.order.folder.weights("occlusion")
        return cls(config, plan, plan.folder.path, base, module, plan.evaluation.predictions, plan.folder.metrics)

    def evaluation(self, words: Sequence[str]) -> Run:
        """The same run, asked for the results of ``evaluate`` with ``words``."""
        name = run_plan(compose(words), words).evaluation.name
        return replace(self, metrics=self.folder / "evaluations" / name / "metrics.json")

    @property
    def results(self) -> dict[str, Any] | None:
        """The results; None while there are none, or when the folder was made with other settings."""
        folder = self.plan.folder
        if finished(folder) is None or comparable_of(folder.config) != self.plan.evaluation.settings:
            return None
        return read_json(self.metrics) if self.metrics.exists() else None

    def has_predictions(self) -> bool:
        """Whether the predictions of the base are stored."""
        return PredictionFiles(self.predictions).base.exists()


def build_data(words: Sequence[str] = ()) -> PanopticDataModule:
    """The data module of a command, with its data prepared."""
    return plans.prepared_data(plan_of(words).data)


def build_model(words: Sequence[str], categories: Categories) -> PanopticFPN:
    """The network of a command, with fresh weights."""
    return plans.build_model(plan_of(words), categories)


def result_words(words: Sequence[str]) -> tuple[str, ...]:
    """Those of ``words`` that matter to the results, and the method: no folders, no machine."""
    config = compose(words)
    return tuple(word for word in words if in_names(config, word) or word.startswith("method="))


def swept(words: Iterable[str]) -> tuple[str, ...]:
    """Words as Hydra's sweeper writes them (0.10 becomes 0.1) and as folders are therefore named, the last of a key."""
    by_key = {}
    for override in OverridesParser.create().parse_overrides(list(words)):
        key = override.get_key_element()
        by_key[key] = key if override.is_delete() else f"{key}={override.get_value_element_as_str()}"
    return tuple(by_key.values())
