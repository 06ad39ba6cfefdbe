"""Options that make training faster: each trains to nearly the same numbers, goes on after an interruption, and names
its base by what it changes."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from helpers.tiny_runs import TinyRun, tiny_run
from panoptic_occ.occlusion.base import TrainingExample
from panoptic_occ.runs.build import plan_of
from panoptic_occ.training.module import PanopticModule
from panoptic_occ.training.stage import fit_stage

OPTIONS = {
    "bf16": ["trainer.precision=bf16-mixed"],
    "channels_last": ["channels_last=true"],
    "bf16 and channels_last": ["trainer.precision=bf16-mixed", "channels_last=true"],
    "compile": ["compile=true"],
}


@pytest.fixture
def run(cache: Path, tmp_path: Path) -> TinyRun:
    """A base of four steps: the schedule is written for batches of eight."""
    brief = ["data.batch_size=2", *(f"schedule.base.{key}" for key in ("steps=1", "milestones=[]", "warmup_steps=0"))]
    return tiny_run(cache, tmp_path, *brief, "compare=[]")


@pytest.fixture(autouse=True)
def quick_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """Traces as ever, but generates no C++, which would take a minute."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))


def fitted(run: TinyRun, *words: str) -> dict[str, torch.Tensor]:
    """The base after its stage, from the newest checkpoint if there is one."""
    plan, data, model = run.built(*words)
    fit_stage("base", model, data, plan, plan.order)
    return load_file(plan.base.folder.weights("base"))


def first_losses(run: TinyRun, *words: str) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Losses of the first batch, and the gradient of the pyramid's last layer."""
    plan, data, model = run.built(*words)
    model.train()
    torch.manual_seed(0)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled="bf16" in plan.trainer.settings["precision"]):
        losses = model.base_losses(next(iter(data.train_dataloader())))
    torch.stack([*losses.values()]).sum().backward()
    gradient = [p.grad for p in model.backbone.parameters() if p.grad is not None][-1]
    return losses, gradient


@pytest.mark.parametrize(("option", "tolerance"), [("bf16", 0.05), ("channels_last", 1e-4)])
def test_losses_are_close_to_those_of_float32(run: TinyRun, option: str, tolerance: float) -> None:
    plain, gradient = first_losses(run)
    losses, other = first_losses(run, *OPTIONS[option])
    assert losses.keys() == plain.keys()
    for name, loss in losses.items():
        assert loss.item() == pytest.approx(plain[name].item(), rel=tolerance, abs=tolerance), name
    assert (gradient - other).norm() < 5 * tolerance * gradient.norm()


def cut(run: TinyRun, *words: str, step: int = 3) -> None:
    """Trains until the power goes."""
    honest = PanopticModule.training_step

    def interrupted(self: PanopticModule, samples: object, batch_idx: int) -> torch.Tensor:
        if self.global_step == step:
            raise RuntimeError("power cut")
        return honest(self, samples, batch_idx)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PanopticModule, "training_step", interrupted)
        with pytest.raises(RuntimeError, match="power cut"):
            fitted(run, *words)
    assert list(run.runs.rglob("*.ckpt"))


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Finite, and equal to the last bit."""
    assert all(torch.isfinite(tensor).all() for tensor in one.values())
    return one.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in one.items())


@pytest.mark.parametrize("option", ["bf16 and channels_last", "compile"])
def test_a_run_that_was_interrupted_ends_as_the_undisturbed_one(run: TinyRun, tmp_path: Path, option: str) -> None:
    cut(run, *OPTIONS[option])
    assert same(fitted(run, *OPTIONS[option]), fitted(run, *OPTIONS[option], f"runs_dir={tmp_path}/whole"))


def test_a_base_that_one_method_began_is_continued_by_another(run: TinyRun, tmp_path: Path) -> None:
    cut(run, "occlusion=ocfusion")
    (folder,) = tmp_path.glob("*/base_*")
    continued = fitted(run, "occlusion=rap")
    assert (folder / "base.safetensors").is_file()  # the same base, not another one
    assert same(continued, fitted(run, "occlusion=refine", f"runs_dir={tmp_path}/whole"))
    (log,) = (tmp_path / "whole").rglob("metrics.csv")
    header, *rows = log.read_text().splitlines()
    column = header.split(",").index("base/images_per_s")
    speeds = [float(cells[column]) for cells in (row.split(",") for row in rows) if cells[column]]
    assert len(speeds) == 4 and min(speeds) > 0  # other rows are of the validation


def test_options_that_change_numbers_are_part_of_the_name_of_a_base(run: TinyRun) -> None:
    keys = {name: run.plan(*words).base.key for name, words in OPTIONS.items()}
    assert len({*keys.values(), run.plan().base.key}) == len(keys) + 1
    assert plan_of([*OPTIONS["compile"], "compare=[]"]).folder.path.name.endswith("compile-true")


@pytest.mark.parametrize(("method", "edge"), [("oanet", 96), ("rap", 64)])
def test_what_learns_from_annotations_meets_them_as_large_as_predicted_masks(
    run: TinyRun, monkeypatch: pytest.MonkeyPatch, method: str, edge: int
) -> None:
    """Predicted masks are in the frame of the original image, here of 96 px; the base trains on 64 px."""
    smaller = ["data.train_transform.short_edge=[64]", "data.train_transform.max_edge=64"]
    brief = ("schedule.occlusion.steps=1", "schedule.occlusion.milestones=[]")
    plan, data, model = run.built(*smaller, f"method={method}", *brief)
    seen: set[int] = set()

    def loss(examples: list[TrainingExample], generator: torch.Generator) -> dict[str, torch.Tensor]:
        seen.update(size for example in examples for size in example.target.masks.size)
        return {"loss_occlusion": next(model.occlusion.parameters()).sum() * 0}

    monkeypatch.setattr(model.occlusion, "loss", loss)
    fit_stage("occlusion", model, data, plan, plan.order)
    assert seen == {edge}
