"""Functions of images in a thread beside the network."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

import torch

IMAGES_BEHIND = 8


class InBackground:
    """Calls functions with every image in a thread of their own, so that the network need not wait for them: metrics,
    and listeners, which wait for codecs and disks.

    The images come one after the other, at most IMAGES_BEHIND of them wait, which bounds the memory.  A context
    manager: at its end none waits.  What a function raises is raised by a later call, or at the end.
    """

    def __init__(self, functions: Sequence[Callable[..., object]]) -> None:
        self.functions = tuple(functions)
        self._pending: deque[Future[None]] = deque()

    def __enter__(self) -> InBackground:
        self._pool = ThreadPoolExecutor(1)
        return self

    def __call__(self, *image: object) -> None:
        """Hands one image over, as the functions take it."""
        while self._pending and (len(self._pending) >= IMAGES_BEHIND or self._pending[0].done()):
            self._pending.popleft().result()
        self._pending.append(self._pool.submit(self._tell, *image))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._pool:
            try:
                while kind is None and self._pending:
                    self._pending.popleft().result()
            finally:
                self._pool.shutdown(wait=False, cancel_futures=True)

    @torch.inference_mode()  # which every thread enters for itself
    def _tell(self, *image: object) -> None:
        for function in self.functions:
            function(*image)
