"""Many items in worker processes: in order, a few at a time, and every fault comes out."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest
import torch

from panoptic_occ.common.errors import PanopticOccError
from panoptic_occ.common.parallel import ordered_map


class Source:
    """Numbers below ``total``; ``taken`` says how far it was consumed."""

    def __init__(self, total: int) -> None:
        self.total, self.taken = total, 0

    def __iter__(self) -> Iterator[int]:
        for number in range(self.total):
            self.taken += 1
            yield number


def square(number: int) -> int:
    return number * number


def threads(number: int) -> tuple[int, int]:
    return os.getpid(), torch.get_num_threads()


def fail_at_seven(number: int) -> int:
    if number == 7:
        raise ValueError("seven")
    return number


@pytest.mark.parametrize(("processes", "chunk"), [(1, 4), (2, 1), (2, 4)])
def test_only_a_few_items_are_under_way_whatever_the_total(processes: int, chunk: int) -> None:
    source = Source(60)
    for done, result in enumerate(ordered_map(square, source, source.total, processes, chunk=chunk), start=1):
        assert result == (done - 1) ** 2
        # three chunks a worker are submitted, and the results of one chunk are handed out; one process looks not ahead
        assert source.taken <= (done if processes == 1 else done + chunk * (3 * processes + 1))
    assert done == source.taken == source.total


def test_workers_are_others_and_compute_with_one_thread() -> None:
    workers = set(ordered_map(threads, range(8), 8, processes=2, chunk=1))
    assert os.getpid() not in {pid for pid, _ in workers} and {count for _, count in workers} == {1}


@pytest.mark.parametrize("processes", [1, 2])
def test_the_first_fault_stops_everything(processes: int) -> None:
    source, seen = Source(1000), []
    with pytest.raises(ValueError, match="seven"):
        seen.extend(ordered_map(fail_at_seven, source, source.total, processes, chunk=1))
    assert source.taken < 20


def be_killed(number: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return number


def test_a_killed_worker_is_one_clear_error() -> None:
    with pytest.raises(PanopticOccError, match="one of 2 worker processes was killed, often for lack of memory"):
        list(ordered_map(be_killed, range(4), 4, processes=2, chunk=1))
