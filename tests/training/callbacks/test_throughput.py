"""Images per second: what is counted, over which steps, and where it is logged."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from panoptic_occ.network.panoptic_fpn import PanopticFPN
from panoptic_occ.training.callbacks import throughput
from panoptic_occ.training.callbacks.throughput import Throughput
from panoptic_occ.training.module import PanopticModule


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, float, bool]]:
    found: list[tuple[str, float, bool]] = []

    def log(self: object, name: str, value: float, prog_bar: bool = False, **_: Any) -> None:
        found.append((name, value, prog_bar))

    monkeypatch.setattr(PanopticModule, "log", log)
    return found


@pytest.mark.parametrize("world_size", [1, 3])
def test_images_of_the_last_steps_over_the_time_they_took(
    logged: list[tuple[str, float, bool]], monkeypatch: pytest.MonkeyPatch, world_size: int
) -> None:
    trainer: Any = SimpleNamespace(world_size=world_size)
    module = PanopticModule(PanopticFPN.__new__(PanopticFPN), "occlusion", seed=0)
    moments = iter([10.0, 11.0, 13.0, 13.5, 15.5])  # start, then the ends of four steps
    monkeypatch.setattr(throughput, "time", SimpleNamespace(perf_counter=lambda: next(moments)))
    callback = Throughput(window=2)
    callback.on_train_start(trainer, module)
    for images in (8, 4, 4, 2):
        callback.on_train_batch_end(trainer, module, None, [None] * images, 0)
    expected = [8 / 1.0, 12 / 3.0, 8 / 2.5, 6 / 2.5]
    assert logged == [("occlusion/images_per_s", pytest.approx(world_size * e), True) for e in expected]


def test_another_fit_starts_anew(logged: list[tuple[str, float, bool]], monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = cast(Any, SimpleNamespace(world_size=1))
    module = PanopticModule(PanopticFPN.__new__(PanopticFPN), "base", seed=0)
    moments = iter([0.0, 1.0, 100.0, 102.0])
    monkeypatch.setattr(throughput, "time", SimpleNamespace(perf_counter=lambda: next(moments)))
    callback = Throughput()
    for _ in range(2):
        callback.on_train_start(trainer, module)
        callback.on_train_batch_end(trainer, module, None, [None] * 6, 0)
    assert [value for _, value, _ in logged] == [6.0, 3.0]
