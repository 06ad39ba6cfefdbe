from __future__ import annotations

from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import pytorch_lightning as pl
import torch

from panoptic_occ.common.errors import ConfigError, DataError
from panoptic_occ.data.coco.dataset import CocoPanoptic
from panoptic_occ.data.loading.datamodule import PanopticDataModule
from panoptic_occ.data.loading.transforms import EvalTransform, TrainTransform
from panoptic_occ.structures.categories import Categories
from panoptic_occ.structures.sample import Sample

THINGS = Categories.from_json([{"id": 1, "name": "cat", "isthing": 1}, {"id": 2, "name": "dog", "isthing": 1}])


class FakeImages:
    """Noise images without targets; every third is portrait."""

    def __init__(self, n: int, categories: Categories = THINGS) -> None:
        self.categories = categories
        self.image_ids = torch.arange(n) + 100
        self.sizes = torch.tensor([[8, 6] if k % 3 == 2 else [6, 8] for k in range(n)]).view(-1, 2)

    def __len__(self) -> int:
        return len(self.sizes)

    def load(self, index: int) -> Sample:
        height, width = self.sizes[index].tolist()
        image = torch.randint(0, 256, (3, height, width), generator=torch.Generator().manual_seed(index))
        return Sample(image.byte(), 100 + index, f"{index}.png", (height, width))


class FakeSource:
    name = "fake"
    cache_dir = Path()

    def __init__(self, train: int = 20, val: int = 7, val_categories: Categories = THINGS) -> None:
        self.splits = {"train": (train, THINGS), "val": (val, val_categories)}
        self.calls: list[str] = []

    def prepare(self) -> None:
        self.calls.append("prepare")

    def split(self, split: str) -> CocoPanoptic:
        self.calls.append(split)
        return cast(CocoPanoptic, FakeImages(*self.splits[split]))


def make_data(source: FakeSource | None = None, **options: Any) -> PanopticDataModule:
    options = {"batch_size": 4, "steps_per_epoch": 5, **options}
    return PanopticDataModule(source or FakeSource(), TrainTransform([6, 9], 16), EvalTransform(6, 8), **options)


class Probe(pl.LightningModule):
    """Records what reaches every training step; its weight depends on the order of the batches."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[list[tuple[int, int, float]]] = []
        self.evaluated: list[int] = []

    def training_step(self, batch: list[Sample], batch_idx: int) -> torch.Tensor:
        self.seen.append([(s.image_id, s.image.shape[1], float(s.image.float().mean())) for s in batch])
        return (self.weight * 0.5 - self.seen[-1][0][2]) ** 2

    def validation_step(self, batch: list[Sample], batch_idx: int) -> None:
        self.evaluated += [s.image_id for s in batch]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(
    folder: Path, max_steps: int, resume: Path | None = None, workers: int = 0, every: int = 1
) -> tuple[Probe, PanopticDataModule]:
    probe, data = Probe(), make_data(num_workers=workers)
    saver = pl.callbacks.ModelCheckpoint(folder, "{step}", save_top_k=-1, every_n_train_steps=every)
    trainer = pl.Trainer(
        accelerator="cpu",
        max_steps=max_steps,
        max_epochs=-1,
        callbacks=[saver],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(probe, datamodule=data, ckpt_path=resume, weights_only=False)
    return probe, data


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Probe]:
    folder = tmp_path_factory.mktemp("whole")
    return folder, fit(folder, 17)[0]


def test_lightning_reaches_the_sampler_every_epoch(whole_run: tuple[Path, Probe]) -> None:
    _, probe = whole_run
    sampler = cast(Any, make_data().train_dataloader().batch_sampler)
    expected = [[100 + index for index, _ in sampler.batch(step)] for step in range(17)]
    assert [[image_id for image_id, _, _ in batch] for batch in probe.seen] == expected
    assert probe.evaluated == list(range(100, 107)) * 3  # after each of three whole epochs of 5 steps


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("step", [3, 5, 8, 10])
def test_a_resumed_run_sees_the_same_batches(
    whole_run: tuple[Path, Probe], tmp_path: Path, step: int, workers: int
) -> None:
    folder, probe = whole_run
    resumed, _ = fit(tmp_path, 17, folder / f"step={step}.ckpt", workers, every=100)
    assert resumed.seen == probe.seen[step:]
    assert torch.equal(resumed.weight, probe.weight)


def test_persistent_workers_follow_the_position() -> None:
    here, there = (make_data(num_workers=workers) for workers in (0, 2))
    for data in (here, there):
        place(data, 0, 1)
    loaders = here.train_dataloader(), there.train_dataloader()
    for step in (0, 5, 25):
        batches = []
        for data, loader in zip((here, there), loaders, strict=True):
            cast(Any, data.trainer).global_step = step
            batches.append([[(s.image_id, s.image.sum().item()) for s in batch] for batch in loader])
        assert batches[0] == batches[1] and len(batches[0]) == 5


def test_the_source_is_read_late_and_once() -> None:
    source = FakeSource()
    data = make_data(source)
    assert source.calls == []
    data.prepare_data()
    data.setup("validate")
    assert source.calls == ["prepare"]
    assert data.categories is THINGS and [len(b) for b in data.val_dataloader()] == [1] * 7
    assert source.calls == ["prepare", "val"]
    data.setup("fit")
    data.train_dataloader()
    assert source.calls == ["prepare", "val", "train"]


def test_limits_take_the_first_images() -> None:
    data = make_data(max_train_images=6, max_eval_images=3, eval_batch_size=2)
    assert {s.image_id for batch in data.train_dataloader() for s in batch} == set(range(100, 106))
    for loader in (data.val_dataloader(), data.test_dataloader()):
        assert [[s.image_id for s in batch] for batch in loader] == [[100, 101], [102]]


def test_an_epoch_is_about_one_pass_unless_its_length_is_given() -> None:
    assert len(make_data(steps_per_epoch=None).train_dataloader()) == 5
    assert len(make_data(steps_per_epoch=None, batch_size=32).train_dataloader()) == 1
    assert len(make_data(steps_per_epoch=9).train_dataloader()) == 9


def place(data: PanopticDataModule, rank: int, world_size: int, use_distributed_sampler: bool = False) -> None:
    data.trainer = cast(
        Any,
        SimpleNamespace(
            global_rank=rank,
            world_size=world_size,
            _accelerator_connector=SimpleNamespace(use_distributed_sampler=use_distributed_sampler),
            global_step=0,
        ),
    )


@pytest.mark.parametrize("world_size", [2, 4])
@pytest.mark.parametrize("images", [1, 7, 8])
def test_processes_share_the_images(world_size: int, images: int) -> None:
    trained: list[list[int]] = [[] for _ in range(5)]
    shares = []
    for rank in range(world_size):
        data = make_data(FakeSource(val=images))
        place(data, rank, world_size)
        for step, batch in enumerate(data.train_dataloader()):
            trained[step] += [s.image_id for s in batch]
        shares.append([s.image_id for batch in data.val_dataloader() for s in batch])
    assert sorted(chain(*shares)) == list(range(100, 100 + images))  # each exactly once
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    assert trained == [[s.image_id for s in batch] for batch in make_data().train_dataloader()]


def test_samplers_of_lightning_are_refused() -> None:
    data = make_data()
    place(data, 0, 2, use_distributed_sampler=True)
    for loader in (data.train_dataloader, data.val_dataloader):
        with pytest.raises(ConfigError, match="use_distributed_sampler: True would evaluate some images twice"):
            loader()


def test_splits_of_other_categories() -> None:
    others = Categories.from_json([{"id": 1, "name": "cow", "isthing": 1}])
    with pytest.raises(DataError, match="different categories"):
        make_data(FakeSource(val_categories=others)).setup("fit")
