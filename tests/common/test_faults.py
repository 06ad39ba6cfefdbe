"""Errors of the machine in one sentence; faults of ours keep their traceback."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from panoptic_occ.common.errors import DataError
from panoptic_occ.common.faults import clear_message

GLOO = "[third_party/gloo/gloo/transport/tcp/pair.cc:561] Connection closed by peer [127.0.0.1]:6277. GLHF!"
NCCL = "NCCL error in: x.cpp:1: remote process exited or there was a network error, NCCL version 2.20"


def raises(error: Exception) -> Callable[[], None]:
    def call() -> None:
        raise error

    return call


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (lambda: torch.empty(1 << 50), "the memory of this machine does not suffice"),
        (lambda: np.empty(1 << 55, np.uint8), "the memory of this machine does not suffice"),
        (raises(MemoryError()), r"\(MemoryError\).*data.eval_batch_size.*trainer.precision"),
        (raises(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")), "the memory of the GPU does"),
        (raises(RuntimeError(GLOO)), r"another process of this run has ended \(closed by peer\)"),
        (raises(RuntimeError(NCCL)), r"another process of this run has ended \(remote process exited\)"),
        (Path("x" * 300).read_bytes, "x: File name too long"),
        (Path("/proc/none/file").read_bytes, "/proc/none/file: No such file or directory"),
        (raises(DataError("as it is")), "^as it is$"),
    ],
)
def test_what_the_machine_does(fault: Callable[[], object], message: str) -> None:
    with pytest.raises(Exception) as error:
        fault()
    text = clear_message(error.value)
    assert text is not None and "\n" not in text
    with pytest.raises(DataError, match=message):
        raise DataError(text)


@pytest.mark.parametrize("error", [ValueError("a"), RuntimeError("shapes differ"), KeyError("a"), OSError("a")])
def test_faults_of_ours(error: Exception) -> None:
    assert clear_message(error) is None
