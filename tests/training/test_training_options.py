"""Options that make training faster: each trains to nearly the same numbers, goes on after an interruption, and names
its base by what it changes."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from panoptic_occ.training.recipe import build_schedule
from safetensors.torch import load_file

from panoptic_occ.common.errors import ConfigError
from panoptic_occ.config.compose import compose
from panoptic_occ.occlusion.base import TrainingExample
from panoptic_occ.runs.build import build_data, run_folder
from panoptic_occ.runs.folders import base_folder
from panoptic_occ.runs.keys import base_key, changes
from panoptic_occ.runs.plan import build_model
from panoptic_occ.training.module import PanopticModule
from panoptic_occ.training.stage import fit_stage, make_trainer

OPTIONS = {
    "bf16": ["trainer.precision=bf16-mixed"],
    "channels_last": ["channels_last=true"],
    "bf16 and channels_last": ["trainer.precision=bf16-mixed", "channels_last=true"],
    "compile": ["compile=true"],
}


@pytest.fixture(scope="module")
def common(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    cache = tmp_path_factory.mktemp("cache")
    brief = [
        "data.batch_size=2",
        "schedule.base.steps=1",
        "schedule.base.milestones=[]",
        "schedule.base.warmup_steps=0",
    ]
    words = ["experiment=tiny", "trainer=cpu", "trainer.enable_progress_bar=false", f"data.source.cache_dir={cache}"]
    return [*words, *brief]  # four steps: the schedule is written for batches of eight


@pytest.fixture(autouse=True)
def quick_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """Traces as ever, but generates no C++, which would take a minute."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))


def fitted(words: list[str], runs: Path) -> dict[str, torch.Tensor]:
    """The base after its stage, from the newest checkpoint if there is one."""
    config = compose([*words, f"runs_dir={runs}"])
    data = build_data(config)
    model = build_model(config, data.categories)
    folder = base_folder(config)
    fit_stage("base", model, data, build_schedule(config), folder, config)
    return load_file(folder.weights("base"))


def first_losses(words: list[str]) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Losses of the first batch, and the gradient of the pyramid's last layer."""
    config = compose(words)
    data = build_data(config)
    model = build_model(config, data.categories).train()
    torch.manual_seed(0)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled="bf16" in config.trainer.precision):
        losses = model.base_losses(next(iter(data.train_dataloader())))
    sum(losses.values()).backward()  # type: ignore[union-attr]
    gradient = [p.grad for p in model.backbone.parameters() if p.grad is not None][-1]
    return losses, gradient


@pytest.mark.parametrize(("option", "tolerance"), [("bf16", 0.05), ("channels_last", 1e-4)])
def test_losses_are_close_to_those_of_float32(common: list[str], option: str, tolerance: float) -> None:
    plain, gradient = first_losses(common)
    losses, other = first_losses([*common, *OPTIONS[option]])
    assert losses.keys() == plain.keys()
    for name, loss in losses.items():
        assert loss.item() == pytest.approx(plain[name].item(), rel=tolerance, abs=tolerance), name
    assert (gradient - other).norm() < 5 * tolerance * gradient.norm()


def cut(words: list[str], runs: Path, step: int = 3) -> None:
    """Trains until the power goes."""
    honest = PanopticModule.training_step

    def interrupted(self: PanopticModule, samples: object, batch_idx: int) -> torch.Tensor:
        if self.global_step == step:
            raise RuntimeError("power cut")
        return honest(self, samples, batch_idx)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PanopticModule, "training_step", interrupted)
        with pytest.raises(RuntimeError, match="power cut"):
            fitted(words, runs)
    assert list(runs.rglob("*.ckpt"))


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Finite, and equal to the last bit."""
    assert all(torch.isfinite(tensor).all() for tensor in one.values())
    return one.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in one.items())


@pytest.mark.parametrize("option", ["bf16 and channels_last", "compile"])
def test_a_run_that_was_interrupted_ends_as_the_undisturbed_one(common: list[str], tmp_path: Path, option: str) -> None:
    words = [*common, *OPTIONS[option]]
    cut(words, tmp_path / "cut")
    assert same(fitted(words, tmp_path / "cut"), fitted(words, tmp_path / "whole"))


def test_a_base_that_one_method_began_is_continued_by_another(common: list[str], tmp_path: Path) -> None:
    cut([*common, "occlusion=ocfusion"], tmp_path / "cut")
    (folder,) = (tmp_path / "cut").glob("*/base_*")
    continued = fitted([*common, "occlusion=rap"], tmp_path / "cut")
    assert (folder / "base.safetensors").is_file()  # the same base, not another one
    assert same(continued, fitted([*common, "occlusion=refine"], tmp_path / "whole"))


def test_training_logs_its_throughput(common: list[str], tmp_path: Path) -> None:
    fitted(common, tmp_path)
    (log,) = tmp_path.rglob("metrics.csv")
    header, *rows = log.read_text().splitlines()
    column = header.split(",").index("base/images_per_s")
    speeds = [float(cells[column]) for cells in (row.split(",") for row in rows) if cells[column]]
    assert len(speeds) == 4 and min(speeds) > 0  # other rows are of the validation


def test_options_that_change_numbers_are_part_of_the_name_of_a_base(common: list[str]) -> None:
    keys = {name: base_key(compose([*common, *words])) for name, words in OPTIONS.items()}
    assert len({*keys.values(), base_key(compose(common))}) == len(keys) + 1
    words = OPTIONS["compile"]
    assert run_folder(compose([*common, *words]), words).path.name.endswith("compile-true")


def test_bases_from_before_an_option_existed_keep_their_name(common: list[str]) -> None:
    config = compose(common)
    older = OmegaConf.create({key: value for key, value in config.items() if key != "compile"})
    assert "compile" in config and base_key(older) == base_key(config)
    assert not changes(older, config, ("compile",))
    assert changes(older, compose([*common, "compile=true"]), ("compile",)) == "compile: None -> True"


def test_accumulated_batches_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"accumulate_grad_batches=2: .* choose a smaller data\.batch_size"):
        make_trainer(compose(["trainer=cpu", "+trainer.accumulate_grad_batches=2"]))


@pytest.mark.parametrize(("method", "edge"), [("oanet", 96), ("rap", 64)])
def test_what_learns_from_annotations_meets_them_as_large_as_predicted_masks(
    common: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, edge: int
) -> None:
    """Predicted masks are in the frame of the original image, here of 96 px; the base trains on 64 px."""
    smaller = ["data.train_transform.short_edge=[64]", "data.train_transform.max_edge=64", "schedule.occlusion.steps=1"]
    config = compose(
        [*common, *smaller, f"method={method}", "schedule.occlusion.milestones=[]", f"runs_dir={tmp_path}"]
    )
    data = build_data(config)
    model = build_model(config, data.categories)
    seen: set[int] = set()

    def loss(examples: list[TrainingExample], generator: torch.Generator) -> dict[str, torch.Tensor]:
        seen.update(size for example in examples for size in example.target.masks.size)
        return {"loss_occlusion": next(model.occlusion.parameters()).sum() * 0}

    monkeypatch.setattr(model.occlusion, "loss", loss)
    fit_stage("occlusion", model, data, build_schedule(config), base_folder(config), config)
    assert seen == {edge}
