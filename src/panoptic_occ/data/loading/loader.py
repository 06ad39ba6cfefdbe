"""Loading of samples in worker processes: a batch crosses the border between processes as one block of memory.

A sample is about a dozen tensors.  Sent one by one, each would hold a file descriptor open in the receiving process
until it is freed, and a few workers with batches of 16 exceed the usual limit of 1024.  torch's ``file_system``
strategy holds none, but makes a file of every tensor: small images arrive at a quarter of the rate, and unpinned.
"""

from __future__ import annotations

import io
import pickle
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from jaxtyping import UInt8
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info

from panoptic_occ.common.errors import DataError
from panoptic_occ.data.coco.dataset import CocoPanoptic
from panoptic_occ.data.loading.sampling import Item
from panoptic_occ.structures.sample import Sample

_GRACE = 20  # seconds that a worker goes on after SIGTERM
_ALIGNMENT = 64


@dataclass(frozen=True)
class TransformedSamples(Dataset[Sample | DataError]):
    """The first ``length`` images of a data set, each through ``transform(sample, seed)``.

    An index without an augmentation seed counts as seed 0.
    """

    data: CocoPanoptic
    transform: Callable[[Sample, int], Sample]
    length: int

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, item: Item | int) -> Sample | DataError:
        index, seed = (item, 0) if isinstance(item, int) else item
        try:
            return self.transform(self.data.load(index), seed)
        except DataError as error:
            if get_worker_info() is None:
                raise
            return error  # to be raised by the main process, without the worker's traceback in its message


class SampleLoader(DataLoader[Any]):
    """A DataLoader whose batches are lists of Samples, and which raises the DataError that a worker met."""

    def __iter__(self) -> Iterator[list[Sample]]:  # type: ignore[override]
        # Not a generator: the workers begin to load when the iterator is made, not when the first batch is wanted.
        return map(_received, super().__iter__())


def sample_loader(
    dataset: TransformedSamples,
    num_workers: int,
    *,
    batch_sampler: Sampler[list[Item]] | Sequence[list[Item]] | None = None,
    sampler: Sequence[int] | None = None,
    batch_size: int = 1,
    persistent_workers: bool = False,
) -> SampleLoader:
    """A loader over ``dataset``, with either a ``batch_sampler``, or a ``sampler`` and a ``batch_size``.

    With a GPU the memory of a batch is pinned, so that ``Sample.to`` copies while the GPU computes.
    """
    order: dict[str, Any] = {"batch_sampler": batch_sampler}
    if batch_sampler is None:
        order = {"sampler": sampler, "batch_size": batch_size}
    return SampleLoader(
        dataset,
        **order,
        num_workers=num_workers,
        collate_fn=_collate,
        worker_init_fn=_outlive_signals,
        persistent_workers=persistent_workers and num_workers > 0,
        pin_memory=num_workers > 0 and torch.cuda.is_available(),
        # A private generator: by default every new iterator draws from torch's global one, which would make the random
        # numbers of the training depend on how often a run was resumed.
        generator=torch.Generator(),
    )


class Packed(NamedTuple):
    """A batch as one block of memory; ``head`` is the pickled structure, ``sizes`` the bytes of every tensor."""

    head: bytes
    sizes: list[int]
    block: UInt8[Tensor, " bytes"]


def pack(samples: Sequence[Sample]) -> Packed:
    """All tensors of ``samples`` copied into one block of shared memory."""
    buffers: list[pickle.PickleBuffer] = []
    stream = io.BytesIO()
    pickler = pickle.Pickler(stream, protocol=5, buffer_callback=buffers.append)
    # tensors like numpy arrays, which can leave their bytes to the caller
    pickler.dispatch_table = {Tensor: lambda tensor: (torch.from_numpy, (tensor.numpy(),))}
    pickler.dump(list(samples))
    raw = [buffer.raw() for buffer in buffers]
    sizes = [part.nbytes for part in raw]
    # written straight into shared memory, as torch's own collate does: sending an ordinary tensor would copy it again
    shared = torch.UntypedStorage._new_shared(sum(map(_padded, sizes)))
    block = torch.empty(0, dtype=torch.uint8).set_(shared)
    for place, part in zip(_places(block, sizes), raw, strict=True):
        place[:] = part
    return Packed(stream.getvalue(), sizes, block)


def unpack(packed: Packed) -> list[Sample]:
    """The samples again; their tensors are views, so one of them keeps the block of the whole batch in memory."""
    samples: list[Sample] = pickle.loads(packed.head, buffers=_places(packed.block, packed.sizes))
    return samples


def _padded(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def _places(block: Tensor, sizes: Sequence[int]) -> list[memoryview]:
    """Where in the block every tensor has its bytes."""
    content = block.numpy().data
    starts = [0, *accumulate(map(_padded, sizes))]
    return [content[start : start + size] for start, size in zip(starts, sizes, strict=False)]


def _collate(results: list[Sample | DataError]) -> list[Sample] | Packed | DataError:
    for result in results:
        if isinstance(result, DataError):
            return result
    return results if get_worker_info() is None else pack(results)  # type: ignore[return-value, arg-type]


def _received(batch: list[Sample] | Packed | DataError) -> list[Sample]:
    if isinstance(batch, DataError):
        raise batch
    return unpack(batch) if isinstance(batch, Packed) else batch


def _outlive_signals(worker: int) -> None:
    """SLURM signals all processes of a job; the workers go on until the one that they work for has stopped in peace."""
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    # not ignored: it is also how a worker that hangs is ended
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(_GRACE))
