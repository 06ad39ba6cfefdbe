"""Runs whose predictions are stored, and the maps that they make."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from helpers.tiny_runs import TinyRun, tiny_run
from panoptic_occ.evaluation.evaluator import Evaluation
from panoptic_occ.runs.plan import build_model, prepared_data
from panoptic_occ.runs.weights import save_weights
from panoptic_occ.structures.base_output import BaseOutput
from panoptic_occ.structures.panoptic_map import PanopticMap
from panoptic_occ.structures.sample import Sample


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


def untrained_run(scenes: Path, runs: Path) -> TinyRun:
    """A tiny run with the weights it was born with (nobody asks here whether they are good)."""
    run = tiny_run(scenes, runs)
    plan = run.plan()
    model = build_model(plan, prepared_data(plan.data).categories)
    with torch.no_grad():  # answers of both signs, which weights this small would not give
        model.occlusion.head.project.weight.mul_(100)  # type: ignore[union-attr,operator]
    save_weights(plan.base.folder.weights("base"), model.base_modules(), {"stage": "base"})
    save_weights(plan.order.folder.weights("occlusion"), {"occlusion": model.occlusion}, {"stage": "occlusion"})
    return run
