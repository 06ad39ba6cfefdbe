"""Images per second: what is counted, over which steps, and where it is logged."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from panoptic_occ.network.panoptic_fpn import PanopticFPN
from panoptic_occ.training.callbacks import progress
from panoptic_occ.training.callbacks.progress import Throughput
from panoptic_occ.training.module import PanopticModule


@pytest.mark.parametrize("world_size", [1, 3])
def test_images_of_the_last_steps_over_the_time_they_took(monkeypatch: pytest.MonkeyPatch, world_size: int) -> None:
    """Another fit starts anew."""
    logged: list[tuple[str, float, bool]] = []

    def log(self: object, name: str, value: float, prog_bar: bool = False, **_: Any) -> None:
        logged.append((name, value, prog_bar))

    monkeypatch.setattr(PanopticModule, "log", log)
    trainer: Any = SimpleNamespace(world_size=world_size)
    module = PanopticModule(PanopticFPN.__new__(PanopticFPN), "occlusion", seed=0)
    # start, then the ends of four steps; start and step of the other fit
    moments = iter([10.0, 11.0, 13.0, 13.5, 15.5, 100.0, 102.0])
    monkeypatch.setattr(progress, "perf_counter", lambda: next(moments))
    callback = Throughput(window=2)
    for batches in ((8, 4, 4, 2), (6,)):
        callback.on_train_start(trainer, module)
        for images in batches:
            callback.on_train_batch_end(trainer, module, None, [None] * images, 0)
    expected = [8 / 1.0, 12 / 3.0, 8 / 2.5, 6 / 2.5, 6 / 2.0]
    assert logged == [("occlusion/images_per_s", pytest.approx(world_size * e), True) for e in expected]
