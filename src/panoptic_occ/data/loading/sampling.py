"""Which image, at which step, on which process: functions of a seed and a step, without hidden state.

So a run that was killed continues with exactly the samples that it would have seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Bool, Int, UInt64
from torch.utils.data import Sampler

from panoptic_occ.common.errors import ConfigError

Item = tuple[int, int]
"""Index into the data set and seed of the augmentation."""

_ORDER, _AUGMENTATION = 0, 1


class StepBatchSampler(Sampler[list[Item]]):
    """An endless stream of training batches, of which an epoch is a window of ``steps_per_epoch`` batches.

    The data set is shuffled anew in every pass.  Images queue up by orientation (landscape or portrait) in the order of
    the pass, and a batch is emitted whenever one queue holds ``batch_size`` of them, so that padding stays small.  What
    is left in a queue waits for the next pass, so every pass uses every image exactly once.  ``sizes`` (n, 2): heights
    and widths.  Each process takes its equal slice of the batch, so the stream does not depend on ``world_size``.

    ``position`` gives the global step whenever an iterator is made.  Epochs are not counted: a trainer that ends one
    early, as Lightning does with the first one after a resume, still goes on with the next batch.

    A batch that the processes cannot share equally raises ConfigError.
    """

    def __init__(
        self,
        sizes: Int[np.ndarray, "n 2"],
        batch_size: int,
        seed: int,
        steps_per_epoch: int,
        rank: int = 0,
        world_size: int = 1,
        position: Callable[[], int] = int,
    ) -> None:
        if batch_size % world_size:
            raise ConfigError(
                f"batch_size: {batch_size} images cannot be shared equally by {world_size} processes; it is the total "
                f"over all processes, choose a multiple of {world_size}"
            )
        self._order = _BatchOrder(sizes[:, 1] >= sizes[:, 0], batch_size, seed)
        self.seed = seed
        self.steps_per_epoch = steps_per_epoch
        self.position = position
        share = batch_size // world_size
        self.slots = np.arange(rank * share, (rank + 1) * share)  # of this process in every batch

    def __len__(self) -> int:
        # Also for the rest of an epoch: Lightning counts the batches before a resume towards the length by itself.
        return self.steps_per_epoch

    def __iter__(self) -> Iterator[list[Item]]:
        # Not a generator: the position is that of the moment at which the iterator is made.
        start = self.position()
        return map(self.batch, range(start, start + self.steps_per_epoch))

    def batch(self, step: int) -> list[Item]:
        """This process's items of the batch of global ``step``."""
        # 63 bits fit every signed integer
        seeds = hash64(self.seed, _AUGMENTATION, step, self.slots) >> np.uint64(1)
        return list(zip(self._order.batch(step)[self.slots].tolist(), seeds.tolist(), strict=True))


@dataclass(frozen=True, eq=False)
class _Pass:
    """One shuffled pass: ``queues[o]`` its images of orientation o in order; ``batches``: (queue, index of the batch in
    that queue) of every batch that the pass completes, in the order of completion."""

    queues: tuple[Int[np.ndarray, " l"], Int[np.ndarray, " p"]]
    batches: tuple[tuple[int, int], ...]


class _BatchOrder:
    """The global stream of batches.

    The images of one orientation form an endless queue: its members in the order of pass 0, then of pass 1, and so on.
    Every pass adds the same number of them, so where a step lies follows from arithmetic, and only the passes that a
    batch touches (one or two) are ever shuffled.
    """

    def __init__(self, landscape: Bool[np.ndarray, " n"], batch_size: int, seed: int) -> None:
        self.landscape = landscape
        self.batch_size = batch_size
        self.seed = seed
        self.members = (int(landscape.sum()), int((~landscape).sum()))
        self._pass = lru_cache(maxsize=4)(self._shuffled)

    def batch(self, step: int) -> Int[np.ndarray, " b"]:
        """Indices of the images of batch ``step``, in the order in which they queued up."""
        number = step * self.batch_size // len(self.landscape)  # no batch is complete before its images have come
        while self._complete_before(number + 1) <= step:
            number += 1
        queue, k = self._pass(number).batches[step - self._complete_before(number)]
        places = np.arange(k * self.batch_size, (k + 1) * self.batch_size)
        passes, offsets = np.divmod(places, self.members[queue])
        return np.concatenate([self._pass(int(p)).queues[queue][offsets[passes == p]] for p in np.unique(passes)])

    def _complete_before(self, number: int) -> int:
        """How many batches are complete when pass ``number`` begins."""
        return sum(number * n // self.batch_size for n in self.members)

    def _shuffled(self, number: int) -> _Pass:
        n = len(self.landscape)
        order = np.argsort(hash64(self.seed, _ORDER, number, np.arange(n)), kind="stable")
        flags = self.landscape[order]
        places = (np.flatnonzero(flags), np.flatnonzero(~flags))
        completed = []
        for queue, place in enumerate(places):
            before = number * len(place)
            for k in range(before // self.batch_size, (before + len(place)) // self.batch_size):
                last = (k + 1) * self.batch_size - 1
                completed.append((int(place[last - before]), queue, k))
        return _Pass((order[places[0]], order[places[1]]), tuple((queue, k) for _, queue, k in sorted(completed)))


def hash64(*words: int | Int[np.ndarray, " n"]) -> UInt64[np.ndarray, " n"]:
    """64-bit hash of a sequence of integers by chained SplitMix64 steps (Steele et al., 2014), vectorised over arrays.

    Integer arithmetic only, so it is the same on every machine and with every version of numpy.
    """
    state = np.zeros(1, dtype=np.uint64)
    for word in words:
        state = splitmix64(state ^ np.asarray(word).astype(np.uint64))
    return state


def splitmix64(state: UInt64[np.ndarray, " n"]) -> UInt64[np.ndarray, " n"]:
    """One output of SplitMix64 for each state."""
    z = state + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
