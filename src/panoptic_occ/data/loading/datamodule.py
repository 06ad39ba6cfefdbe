"""The data of a run for Lightning: train and validation loaders over a source."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from typing import Annotated

from pytorch_lightning import LightningDataModule

from panoptic_occ.common.errors import ConfigError, DataError
from panoptic_occ.common.kinds import Count, Scope, Size
from panoptic_occ.data.coco.dataset import CocoPanoptic
from panoptic_occ.data.loading.loader import SampleLoader, TransformedSamples, sample_loader
from panoptic_occ.data.loading.sampling import StepBatchSampler
from panoptic_occ.data.loading.transforms import TrainTransform
from panoptic_occ.data.source import Source
from panoptic_occ.structures.categories import Categories
from panoptic_occ.structures.sample import Sample


class PanopticDataModule(LightningDataModule):
    """Training batches as a function of ``seed`` and step, and every validation image exactly once.

    ``batch_size``: images per step over all processes; ``eval_batch_size``: images loaded at a time per process, no
    result depends on it.  ``steps_per_epoch``: None for about one pass over the training images.  ``max_train_images``,
    ``max_eval_images``: only the first so many images of the split, in the order of its annotation file.  A batch is a
    list of Samples.

    The Trainer needs ``use_distributed_sampler=False``: the samplers share the images among the processes themselves.
    """

    def __init__(
        self,
        source: Source,
        train_transform: TrainTransform,
        eval_transform: Annotated[Callable[[Sample, int], Sample], Scope.DETECTIONS],
        *,
        batch_size: Count,
        eval_batch_size: Annotated[Count, Scope.MACHINE] = 1,
        num_workers: Annotated[Size, Scope.MACHINE] = 0,
        seed: int = 0,
        steps_per_epoch: Annotated[Count | None, Scope.MACHINE] = None,
        max_train_images: Count | None = None,
        max_eval_images: Annotated[Count | None, Scope.INPUT] = None,
    ) -> None:
        super().__init__()
        if source is None or isinstance(source, str | int | float | list | dict):
            raise ConfigError(f"data.source={source}: nothing to read; data=... chooses a source")
        self.source = source
        self.train_transform = train_transform
        self.eval_transform = eval_transform
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.num_workers = num_workers
        self.seed = seed
        self.steps_per_epoch = steps_per_epoch
        self.max_train_images = max_train_images
        self.max_eval_images = max_eval_images
        self.max_validation_images: int | None = None  # while training
        self.resizes = True  # training images

    @cached_property
    def train_data(self) -> CocoPanoptic:
        """The training split; read on first use."""
        return self.source.split("train")

    @cached_property
    def eval_data(self) -> CocoPanoptic:
        """The validation split; read on first use."""
        return self.source.split("val")

    @property
    def categories(self) -> Categories:
        """Categories of the data set; needs ``prepare_data`` before."""
        return self.eval_data.categories

    @property
    def num_eval_images(self) -> int:
        """How many images an evaluation sees."""
        return len(self.eval_data.image_ids[: self.max_eval_images])

    def prepare_data(self) -> None:
        """Generates or verifies the data (Lightning calls it on one process only)."""
        self.source.prepare()

    def setup(self, stage: str | None = None) -> None:
        """Reads the annotations that ``stage`` needs; DataError when the two splits name different categories."""
        if stage in (None, "fit") and self.train_data.categories != self.eval_data.categories:
            raise DataError(
                f"{self.source.name}: the train and val splits have different categories, so their labels would mean "
                "different things; both panoptic JSON files must hold the same list of categories"
            )

    def train_dataloader(self) -> SampleLoader:
        """Batches of transformed samples; a resumed run begins at the step where it was interrupted."""
        # Lightning says so at every resume; its count of batches may be off by one then, its count of steps is not.
        warnings.filterwarnings("ignore", message=".*resuming from a checkpoint that ended before the epoch ended")
        sizes = self.train_data.sizes[: self.max_train_images].numpy()
        sampler = StepBatchSampler(
            sizes,
            self.batch_size,
            self.seed,
            self.steps_per_epoch or max(len(sizes) // self.batch_size, 1),
            *self._place(),
            position=lambda: 0 if self.trainer is None else self.trainer.global_step,
        )
        samples = TransformedSamples(self.train_data, replace(self.train_transform, resize=self.resizes), len(sizes))
        return sample_loader(samples, self.num_workers, batch_sampler=sampler, persistent_workers=True)

    def val_dataloader(self) -> SampleLoader:
        """This process's share of the first ``max_validation_images``, for a look at the network while it trains."""
        return self._eval_loader(range(self.num_eval_images)[: self.max_validation_images])

    def test_dataloader(self) -> SampleLoader:
        """This process's share of the validation split, in a fixed order; targets in the original frame.

        The test annotations of COCO are not public.
        """
        return self._eval_loader(range(self.num_eval_images))

    def _eval_loader(self, indices: range) -> SampleLoader:
        rank, world_size = self._place()
        share = indices[rank::world_size]  # not padded to one length, which would count images twice
        samples = TransformedSamples(self.eval_data, self.eval_transform, len(indices))
        if not share:  # more processes than images: with an empty batch, this one takes part in what all do
            return sample_loader(samples, 0, batch_sampler=[[]])
        return sample_loader(samples, self.num_workers, sampler=share, batch_size=self.eval_batch_size)

    def _place(self) -> tuple[int, int]:
        """(rank, number of processes) of the run."""
        trainer = self.trainer
        if trainer is None:
            return 0, 1
        # Lightning offers no public way to ask; left on, it would replace the samplers by ones that repeat images.
        if trainer.world_size > 1 and trainer._accelerator_connector.use_distributed_sampler:
            raise ConfigError(
                "trainer.use_distributed_sampler: True would evaluate some images twice; set it to false, the data "
                "module shares the images among the processes itself"
            )
        return trainer.global_rank, trainer.world_size
