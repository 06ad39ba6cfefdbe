from __future__ import annotations

import os
from dataclasses import dataclass

import pytest
import torch

from panoptic_occ.common.errors import DataError
from panoptic_occ.data.loading.loader import TransformedSamples, pack, sample_loader, unpack
from panoptic_occ.data.loading.sampling import EvalSampler
from panoptic_occ.data.loading.transforms import EvalTransform
from panoptic_occ.structures.masks import MaskCrops
from panoptic_occ.structures.panoptic_map import PanopticMap, Segment
from panoptic_occ.structures.relation import GroundTruthRelation
from panoptic_occ.structures.sample import Sample
from panoptic_occ.structures.target import Target


def make_sample(index: int, instances: int) -> Sample:
    generator = torch.Generator().manual_seed(index)
    masks = MaskCrops.from_dense(torch.rand(instances, 12, 10, generator=generator) > 0.5)
    counts = torch.randint(0, 99, (instances, instances), generator=generator)
    return Sample(
        image=torch.randint(0, 256, (3, 12, 10), generator=generator, dtype=torch.uint8),
        image_id=index,
        file_name=f"{index}.png",
        original_size=(12, 10),
        target=Target(
            boxes=torch.rand(instances, 4, generator=generator),
            labels=torch.arange(instances),
            masks=masks,
            panoptic=PanopticMap(torch.full((12, 10), index), (Segment(index, 0, True, 120),)),
            relation=GroundTruthRelation(masks.area, masks.area, counts, counts.T),
            instance_ids=torch.arange(instances),
        ),
    )


@dataclass
class Images:
    broken: int | None = None

    def load(self, index: int) -> Sample:
        if index == self.broken:
            raise DataError(f"{index}.png: the file is truncated; fetch it again")
        return make_sample(index, instances=index % 3)


def assert_same(a: Sample, b: Sample) -> None:
    assert (a.image_id, a.file_name, a.original_size) == (b.image_id, b.file_name, b.original_size)
    assert a.target is not None and b.target is not None
    assert a.target.panoptic.segments == b.target.panoptic.segments and a.target.masks.size == b.target.masks.size
    for x, y in (
        (a.image, b.image),
        (a.target.boxes, b.target.boxes),
        (a.target.labels, b.target.labels),
        (a.target.masks.pixels, b.target.masks.pixels),
        (a.target.masks.windows, b.target.masks.windows),
        (a.target.panoptic.ids, b.target.panoptic.ids),
        (a.target.relation.inter, b.target.relation.inter),
        (a.target.relation.own, b.target.relation.own),
        (a.target.instance_ids, b.target.instance_ids),
    ):
        assert x.dtype == y.dtype and torch.equal(x, y)


def test_a_packed_batch_unpacks_to_the_same_samples_in_one_writable_block() -> None:
    samples = [make_sample(k, k) for k in range(4)]
    packed = pack(samples)
    received = unpack(packed)
    for a, b in zip(received, samples, strict=True):
        assert_same(a, b)
    low, high = packed.storage.data_ptr(), packed.storage.data_ptr() + packed.storage.numel()
    assert all(low <= sample.image.data_ptr() < high for sample in received)
    assert all(sample.image.data_ptr() % 8 == 0 for sample in received)
    received[1].image.fill_(7)
    assert (received[1].image == 7).all() and torch.equal(received[2].image, samples[2].image)


def test_workers_give_the_same_batches_as_the_main_process() -> None:
    samples = TransformedSamples(Images(), EvalTransform(10, 12), 7)
    batches = [list(sample_loader(samples, workers, sampler=EvalSampler(7), batch_size=3)) for workers in (0, 2)]
    assert [len(batch) for batch in batches[0]] == [3, 3, 1]
    for ours, theirs in zip(*batches, strict=True):
        for a, b in zip(ours, theirs, strict=True):
            assert_same(a, b)


@pytest.mark.parametrize("workers", [0, 1])
def test_the_error_of_a_worker_reaches_the_main_process_as_it_was_written(workers: int) -> None:
    loader = sample_loader(
        TransformedSamples(Images(broken=2), EvalTransform(10, 12), 4), workers, sampler=EvalSampler(4)
    )
    with pytest.raises(DataError) as caught:
        list(loader)
    assert str(caught.value) == "2.png: the file is truncated; fetch it again"


def test_many_tensors_of_many_batches_hold_few_files_open() -> None:
    samples = TransformedSamples(Images(), EvalTransform(10, 12), 64)
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else pytest.skip("needs /proc")
    held = list(sample_loader(samples, 1, sampler=EvalSampler(64), batch_size=16))
    assert len(held) == 4 and len(os.listdir("/proc/self/fd")) - before <= 8  # one by one: more than 600


def test_iterating_leaves_the_global_random_state_alone() -> None:
    samples = TransformedSamples(Images(), EvalTransform(10, 12), 4)
    state = torch.random.get_rng_state()
    list(sample_loader(samples, 0, sampler=EvalSampler(4)))
    assert torch.equal(torch.random.get_rng_state(), state)
