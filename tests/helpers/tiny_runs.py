"""Runs on a handful of scenes, with a network of a few steps."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from panoptic_occ.commands.evaluating import evaluate
from panoptic_occ.commands.training import train
from panoptic_occ.data.loading.datamodule import PanopticDataModule
from panoptic_occ.network.panoptic_fpn import PanopticFPN
from panoptic_occ.runs.build import plan_of
from panoptic_occ.runs.plan import RunPlan, build_model, prepared_data
from panoptic_occ.runs.weights import WEIGHTS

QUIET = ("trainer=cpu", "trainer.enable_progress_bar=false", "processes=1")
TINY = ("experiment=tiny", "thing.max_detections=10", *QUIET)


def steps(base: int, occlusion: int) -> list[str]:
    """Words for stages of so many steps."""
    return [
        f"schedule.{stage}.{key}"
        for stage, number in (("base", base), ("occlusion", occlusion))
        for key in (f"steps={number}", "milestones=[]")
    ]


BRIEF = (
    "preset=tiny", "method=rap", "run_name=run", "compare=[score]", "data.max_eval_images=3", *steps(5, 3),
    "schedule.base.warmup_steps=0", "thing.max_detections=8",
)  # fmt: skip
"""A run that tests of processes disturb."""


@dataclass(frozen=True)
class TinyRun:
    """A run by the words of its command, of which the last names the folder of all runs."""

    words: Sequence[str]

    def plan(self, *more: str) -> RunPlan:
        return plan_of([*self.words, *more])

    def built(self, *more: str) -> tuple[RunPlan, PanopticDataModule, PanopticFPN]:
        """Plan, data and a fresh network."""
        plan = self.plan(*more)
        data = prepared_data(plan.data)
        return plan, data, build_model(plan, data.categories)

    def train(self, *more: str) -> dict[str, Any]:
        """The metrics, as their file has them."""
        return as_written(train(self.plan(*more)))

    def evaluate(self, *more: str) -> dict[str, Any]:
        return as_written(evaluate(self.plan(*more)))

    def evaluate_folder(self, *more: str) -> dict[str, Any]:
        """The run found by its folder, as by users who have nothing else of it."""
        return as_written(evaluate(plan_of([f"run={self.folder}", *QUIET, *more])))

    def copied(self, runs: Path) -> TinyRun:
        shutil.copytree(self.runs, runs, dirs_exist_ok=True)
        return TinyRun([*self.words[:-1], f"runs_dir={runs}"])

    @property
    def runs(self) -> Path:
        return Path(self.words[-1].removeprefix("runs_dir="))

    @cached_property
    def folder(self) -> Path:
        return self.plan("compare=[]").folder.path

    @property
    def metrics(self) -> dict[str, Any]:
        return read(self.folder / "metrics.json")


def as_written(metrics: dict[str, object]) -> dict[str, Any]:
    written: dict[str, Any] = json.loads(json.dumps(metrics))
    return written


def read(file: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(file.read_text())
    return content


def equal_weights(one: Path, other: Path) -> bool:
    """Whether two files hold the same tensors, to the last bit."""
    ours, theirs = load_file(one), load_file(other)
    return ours.keys() == theirs.keys() and all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


def trained_again(weights: Path) -> None:
    """Writes other weights into a file, which name the same base."""
    base = WEIGHTS.read_header(weights).get("base")
    tensors = {name: part + 1 if part.is_floating_point() else part for name, part in load_file(weights).items()}
    WEIGHTS.write(weights, tensors, {"base": base})


def tiny_run(cache: Path, runs: Path, *more: str) -> TinyRun:
    return TinyRun([*TINY, f"data.source.cache_dir={cache}", *more, f"runs_dir={runs}"])
