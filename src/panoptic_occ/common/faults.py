"""What a machine does to a command, and what errors of the suite say: one clear message for each."""

from __future__ import annotations

import re

from panoptic_occ.common.errors import PanopticOccError

GOES_ON = "what was written before is whole, and the same command goes on from the last checkpoint"
MEMORY = re.compile(
    r"out of memory|can't allocate memory|not enough memory|unable to allocate|ALLOC_FAILED", re.IGNORECASE
)
PEER = re.compile(
    r"closed by peer|reset by peer|broken pipe|remote process exited|NCCL.*(?:timeout|abort)|store.*(?:closed|timeout)",
    re.IGNORECASE,
)
"""What gloo and NCCL say when another process of a run has gone."""


def clear_message(error: BaseException) -> str | None:
    """What went wrong and what to do, for an error that was raised on purpose or that the machine made; None for a
    fault of ours, of which a traceback says more."""
    first = (str(error).strip() or type(error).__name__).splitlines()[0]
    if isinstance(error, PanopticOccError):
        return str(error)
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and MEMORY.search(str(error))):
        place = "of the GPU" if re.search("cuda|hip|xpu", first, re.IGNORECASE) else "of this machine"
        return (
            f"the memory {place} does not suffice ({first[:200]}); {GOES_ON}. Less is needed with a smaller "
            "data.eval_batch_size (evaluation), data.num_workers=0 and processes=1 (of the machine), smaller images "
            "(data.train_transform.*, data.eval_transform.*), trainer.precision=bf16-mixed, a smaller data.batch_size "
            "or more trainer.devices; those that change a training make a base of their own"
        )
    if isinstance(error, RuntimeError) and (said := PEER.search(str(error))):
        return (
            f"another process of this run has ended ({said[0]}); its own output says why or, if it was killed, as for "
            f"lack of memory, the log of the system; {GOES_ON}"
        )
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror}; debug=true shows where this came from"
    return None
