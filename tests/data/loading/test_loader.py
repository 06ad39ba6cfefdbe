from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from helpers.samples import assert_same, make_sample
from panoptic_occ.common.errors import DataError
from panoptic_occ.data.loading.loader import TransformedSamples, pack, sample_loader, unpack
from panoptic_occ.data.loading.transforms import EvalTransform
from panoptic_occ.structures.sample import Sample


@dataclass
class Images:
    broken: int | None = None

    def load(self, index: int) -> Sample:
        if index == self.broken:
            raise DataError(f"{index}.png: the file is truncated; fetch it again")
        return make_sample((12, 10), n=index % 3, seed=index)


def samples(count: int, **images: Any) -> TransformedSamples:
    return TransformedSamples(Images(**images), EvalTransform(10, 12), count)  # type: ignore[arg-type]


def test_a_packed_batch_unpacks_to_the_same_samples_in_one_writable_block() -> None:
    batch = [make_sample((12, 10), k, k) for k in range(4)]
    packed = pack(batch)
    received = unpack(packed)
    for before, after in zip(batch, received, strict=True):
        assert_same(before, after)
    low, high = packed.block.data_ptr(), packed.block.data_ptr() + packed.block.numel()
    assert all(low <= sample.image.data_ptr() < high for sample in received)
    assert all(sample.image.data_ptr() % 8 == 0 for sample in received)
    received[1].image.fill_(7)
    assert (received[1].image == 7).all() and torch.equal(received[2].image, batch[2].image)


def test_workers_give_the_same_batches_as_the_main_process() -> None:
    here, there = (list(sample_loader(samples(7), workers, sampler=range(7), batch_size=3)) for workers in (0, 2))
    assert [len(batch) for batch in here] == [3, 3, 1]
    for batches in zip(here, there, strict=True):
        for before, after in zip(*batches, strict=True):
            assert_same(before, after)


@pytest.mark.parametrize("workers", [0, 1])
def test_the_error_of_a_worker_reaches_the_main_process_as_it_was_written(workers: int) -> None:
    with pytest.raises(DataError) as caught:
        list(sample_loader(samples(4, broken=2), workers, sampler=range(4)))
    assert str(caught.value) == "2.png: the file is truncated; fetch it again"


def test_many_tensors_of_many_batches_hold_few_files_open() -> None:
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else pytest.skip("needs /proc")
    batches = list(sample_loader(samples(64), 1, sampler=range(64), batch_size=16))
    assert len(batches) == 4 and len(os.listdir("/proc/self/fd")) - before <= 8  # one by one: more than 600


def test_iterating_leaves_the_global_random_state_alone() -> None:
    state = torch.random.get_rng_state()
    list(sample_loader(samples(4), 0, sampler=range(4)))
    assert torch.equal(torch.random.get_rng_state(), state)
