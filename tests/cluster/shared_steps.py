"""Trains every stage for a few steps in two processes, of which the second, then both, see no pairs.

Run by ``test_exactness`` in both processes; the first one writes the results to ``stages.json``.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from helpers.tiny_runs import steps
from panoptic_occ.common.distributed import all_gather, is_main_process, join
from panoptic_occ.occlusion.base import TrainingExample
from panoptic_occ.runs.build import plan_of
from panoptic_occ.runs.plan import RunPlan, build_model, prepared_data
from panoptic_occ.training.stage import fit_stage, make_trainer

STAGES = {"ocfusion": "occlusion", "oanet": "occlusion", "rap": "occlusion", "refine": "occlusion"}
FEW = "thing.max_detections=8"
STAGES |= {"sognet": "occlusion", "banet": "base", "ibpp": "base"}


def main(words: Sequence[str]) -> None:
    """All stages, one after the other."""
    stages = {}
    for method, stage in STAGES.items():
        chosen = ["method=panoptic_fpn", "exchange=ibpp"] if method == "ibpp" else [f"method={method}"]
        plan = plan_of([*words, *chosen, *steps(3, 3), "trainer.log_every_n_steps=1", "compare=[]", FEW])
        stages[method] = trained(stage, plan)
    if is_main_process():
        (plan.runs_dir / "stages.json").write_text(json.dumps(stages))


def trained(stage: Any, plan: RunPlan) -> tuple[list[float], list[float], bool]:
    """The logged losses, the means of what the processes had, and whether they ended with equal weights."""
    join(make_trainer(plan, logger=False))
    torch.manual_seed(0)
    data = prepared_data(plan.data)
    model = build_model(plan, data.categories)
    local: list[float] = []
    honest = getattr(model, f"{stage}_losses")

    def watched(*args: Any) -> Mapping[str, Tensor]:
        losses: Mapping[str, Tensor] = honest(*args)
        local.append(sum(float(loss) for loss in losses.values()))
        return losses

    setattr(model, f"{stage}_losses", watched)
    if stage == "occlusion":
        learn = model.occlusion.loss

        def blinded(examples: Sequence[TrainingExample], generator: torch.Generator) -> dict[str, Tensor]:
            step = len(local)
            if step == 2 or (step == 1 and not is_main_process()):
                examples = [without_instances(example) for example in examples]
            return learn(examples, generator)

        model.occlusion.loss = blinded  # type: ignore[method-assign]
    fit_stage(stage, model, data, plan, plan.order)
    folder = (plan.order if stage == "occlusion" else plan.base).folder.path
    digests = all_gather([float(part.detach().double().abs().sum()) for part in model.parameters()])
    means = [sum(both) / len(both) for both in zip(*all_gather(local), strict=True)]
    return logged(folder, stage) if is_main_process() else [], means, digests[0] == digests[1]


def without_instances(example: TrainingExample) -> TrainingExample:
    nobody = torch.arange(0)
    return TrainingExample(example.instances[nobody], example.matches[nobody], example.target)


def logged(folder: Path, stage: str) -> list[float]:
    (file,) = folder.glob("logs/*/metrics.csv")
    with open(file, newline="", encoding="utf-8") as lines:
        return [float(row[f"{stage}/loss"]) for row in csv.DictReader(lines) if row[f"{stage}/loss"]]


if __name__ == "__main__":
    main(sys.argv[1:])
