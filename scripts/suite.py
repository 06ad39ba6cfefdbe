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
from panoptic_occ.config.compose import compose, conf_dir, group_choices
from panoptic_occ.runs.build import build_data, build_model, build_occlusion
from panoptic_occ.runs.environment import environment
from panoptic_occ.runs.folders import (
    NOT_IN_NAME,
    RunFolder,
    base_folder,
    finished,
    occlusion_folder,
    overrides_name,
    predictions_folder,
    run_folder,
)
from panoptic_occ.runs.predictions import PredictionFiles
from panoptic_occ.runs.reuse import same_settings
from panoptic_occ.training.recipe import build_schedule

__all__ = [
    "Run", "build_data", "build_model", "build_occlusion", "build_schedule", "compose", "conf_dir", "environment",
    "group_choices", "last_error", "result_words", "swept",
]  # fmt: skip


@dataclass(frozen=True)
class Run:
    """A run of ``train`` by its configuration: its folder, the weight files of base and occlusion module, the folder of
    its stored predictions, and ``metrics``, the file of the results that are asked for."""

    config: DictConfig
    folder: Path
    base: Path
    module: Path
    predictions: Path
    metrics: Path

    @classmethod
    def of(cls, words: Sequence[str]) -> Run:
        """The run that the words of a command describe."""
        config = compose(words)
        base, module = base_folder(config).weights("base"), occlusion_folder(config).weights("occlusion")
        folder = run_folder(config, words)
        return cls(config, folder.path, base, module, predictions_folder(config), folder.metrics)

    def evaluation(self, words: Sequence[str]) -> Run:
        """The same run, asked for the results of ``evaluate`` with ``words``."""
        return replace(
            self, metrics=self.folder / "evaluations" / (overrides_name(words) or "default") / "metrics.json"
        )

    @property
    def results(self) -> dict[str, Any] | None:
        """The results; None while there are none, or when the folder was made with other settings."""
        folder = RunFolder(self.folder)
        if finished(folder) is None or not same_settings(folder.config, self.config):
            return None
        return read_json(self.metrics) if self.metrics.exists() else None

    def has_predictions(self) -> bool:
        """Whether the predictions of the base are stored."""
        return PredictionFiles(self.predictions).base.exists()


def result_words(words: Sequence[str]) -> tuple[str, ...]:
    """Those of ``words`` that matter to the results, and the method: no folders, no machine."""
    return tuple(w for w in words if not NOT_IN_NAME.match(w.partition("=")[0]) or w.startswith("method="))


def swept(words: Iterable[str]) -> tuple[str, ...]:
    """Words as Hydra's sweeper writes them (0.10 becomes 0.1) and as folders are therefore named, the last of a key."""
    by_key = {}
    for override in OverridesParser.create().parse_overrides(list(words)):
        key = override.get_key_element()
        by_key[key] = key if override.is_delete() else f"{key}={override.get_value_element_as_str()}"
    return tuple(by_key.values())
