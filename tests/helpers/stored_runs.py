"""Runs whose predictions are stored, and the maps that they make."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from panoptic_occ.commands import evaluating as pipeline
from panoptic_occ.config.compose import compose
from panoptic_occ.evaluation.evaluator import Evaluation
from panoptic_occ.runs.build import build_data, plan_of
from panoptic_occ.runs.folders import base_folder, occlusion_folder, predictions_folder
from panoptic_occ.runs.plan import build_model
from panoptic_occ.runs.weights import save_weights
from panoptic_occ.structures.base_output import BaseOutput
from panoptic_occ.structures.panoptic_map import PanopticMap
from panoptic_occ.structures.sample import Sample


@dataclass(frozen=True)
class Runs:
    """A tiny base with the weights it was born with (nobody asks here whether they are good), and its predictions."""

    words: list[str]

    def evaluate(self, *more: str) -> dict[str, Any]:
        words = [*self.words, *more]
        metrics: dict[str, Any] = json.loads(json.dumps(pipeline.evaluate(plan_of(words))))
        return metrics

    @property
    def folder(self) -> Path:
        return predictions_folder(compose(self.words))


@contextmanager
def all_maps() -> Iterator[dict[tuple[int, str], PanopticMap]]:
    """Every map that is made meanwhile, by image and entry."""
    seen: dict[tuple[int, str], PanopticMap] = {}
    update = Evaluation.update

    def watched(self: Evaluation, sample: Sample, output: BaseOutput) -> dict[str, PanopticMap]:
        maps = update(self, sample, output)
        seen.update({(sample.image_id, name): panoptic for name, panoptic in maps.items()})
        return maps

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Evaluation, "update", watched)
        yield seen


def make_runs(scenes: Path, runs: Path) -> Runs:
    words = ["experiment=tiny", "trainer=cpu", "trainer.enable_progress_bar=false", "processes=1"]
    words += [f"data.source.cache_dir={scenes}", "thing.max_detections=10", f"runs_dir={runs}"]
    cfg = compose(words)
    model = build_model(cfg, build_data(cfg).categories)
    with torch.no_grad():  # answers of both signs, which weights this small would not give
        model.occlusion.head.project.weight.mul_(100)  # type: ignore[union-attr,operator]
    save_weights(base_folder(cfg).weights("base"), model.base_modules(), {"stage": "base"})
    save_weights(occlusion_folder(cfg).weights("occlusion"), {"occlusion": model.occlusion}, {"stage": "occlusion"})
    return Runs(words)
