"""Trains every stage for a few steps in two processes, of which the second, then both, see no pairs.

Run by ``test_exactness`` in both processes; the first one writes what it found to ``found.json``.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from panoptic_occ.training.recipe import build_schedule
from torch import Tensor

from panoptic_occ.common.distributed import all_gather, is_main_process, join
from panoptic_occ.config.compose import compose
from panoptic_occ.occlusion.base import TrainingExample
from panoptic_occ.runs.build import build_data
from panoptic_occ.runs.folders import RunFolder
from panoptic_occ.runs.plan import build_model
from panoptic_occ.training.stage import fit_stage, make_trainer

STAGES = {"ocfusion": "occlusion", "oanet": "occlusion", "rap": "occlusion", "refine": "occlusion"}
STAGES |= {"sognet": "occlusion", "banet": "base", "ibpp": "base"}
STEPS = 3


def main(words: Sequence[str]) -> None:
    """All stages, one after the other."""
    found = {}
    for method, stage in STAGES.items():
        chosen = "method=panoptic_fpn" if method == "ibpp" else f"method={method}"
        short = [f"schedule.{part}.{key}" for part in ("base", "occlusion") for key in ("steps=3", "milestones=[]")]
        exchange = ["exchange=ibpp"] if method == "ibpp" else []
        found[method] = trained(stage, compose([*words, chosen, *exchange, *short, "trainer.log_every_n_steps=1"]))
    if is_main_process():
        Path(compose([*words]).runs_dir, "found.json").write_text(json.dumps(found))


def trained(stage: Any, cfg: Any) -> tuple[list[float], list[float], bool]:
    """The logged losses, the means of what the processes had, and whether they ended with equal weights."""
    join(make_trainer(cfg, logger=False))
    torch.manual_seed(0)
    data = build_data(cfg)
    model = build_model(cfg, data.categories)
    own: list[float] = []
    honest = getattr(model, f"{stage}_losses")

    def watched(*args: Any) -> Mapping[str, Tensor]:
        losses: Mapping[str, Tensor] = honest(*args)
        own.append(sum(float(loss) for loss in losses.values()))
        return losses

    setattr(model, f"{stage}_losses", watched)
    if stage == "occlusion":
        learn = model.occlusion.loss

        def blinded(examples: Sequence[TrainingExample], generator: torch.Generator) -> dict[str, Tensor]:
            step = len(own)
            if step == 2 or (step == 1 and not is_main_process()):
                examples = [without_instances(example) for example in examples]
            return learn(examples, generator)

        model.occlusion.loss = blinded  # type: ignore[method-assign]
    folder = RunFolder(Path(cfg.runs_dir) / str(cfg.choices.method) / str(cfg.choices.exchange))
    fit_stage(stage, model, data, build_schedule(cfg), folder, cfg)
    digests = all_gather([float(part.detach().double().abs().sum()) for part in model.parameters()])
    means = [sum(both) / len(both) for both in zip(*all_gather(own), strict=True)]
    return logged(folder.path, stage) if is_main_process() else [], means, digests[0] == digests[1]


def without_instances(example: TrainingExample) -> TrainingExample:
    nobody = torch.arange(0)
    return TrainingExample(example.instances[nobody], example.matches[nobody], example.target)


def logged(folder: Path, stage: str) -> list[float]:
    (file,) = folder.rglob("metrics.csv")
    with open(file, newline="", encoding="utf-8") as lines:
        return [float(row[f"{stage}/loss"]) for row in csv.DictReader(lines) if row[f"{stage}/loss"]]


if __name__ == "__main__":
    main(sys.argv[1:])
