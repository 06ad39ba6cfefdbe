"""Listeners that work behind the network's back."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch

from panoptic_occ.common.background import InBackground
from panoptic_occ.evaluation import report as results
from panoptic_occ.evaluation.listeners import Pictures
from panoptic_occ.structures.panoptic_map import PanopticMap, Segment
from panoptic_occ.structures.sample import Sample
from panoptic_occ.testing import toy_categories, toy_sample

OUTPUT: Any = None


def test_every_image_is_seen_in_order_and_none_is_lost() -> None:
    seen: list[tuple[str, int]] = []
    listeners = [lambda s, o, m, name=name: seen.append((name, s.image_id)) for name in "ab"]
    with InBackground(listeners) as background:
        for k in range(30):
            background(toy_sample(1, k), OUTPUT, {})
    assert seen == [(name, k) for k in range(30) for name in "ab"]


def test_the_caller_waits_when_it_is_too_far_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "IMAGES_BEHIND", 3)
    gate, seen = threading.Event(), []

    def slow(sample: Sample, *_: object) -> None:
        gate.wait(10)
        seen.append((sample.image_id, threading.current_thread(), torch.is_inference_mode_enabled()))

    handed = 0
    with InBackground([slow]) as background:
        for handed in range(1, 4):
            background(toy_sample(1, handed), OUTPUT, {})
        assert not seen  # the caller did not wait
        threading.Timer(0.2, gate.set).start()
        background(toy_sample(1, 4), OUTPUT, {})
        assert seen  # now it did
    assert [k for k, _, _ in seen] == [1, 2, 3, 4] and handed == 3
    assert all(thread is not threading.current_thread() and inference for _, thread, inference in seen)


def test_a_fault_comes_out_at_a_later_image_or_at_the_end() -> None:
    def faulty(sample: Sample, *_: object) -> None:
        if sample.image_id == 2:
            raise OSError("the disk is full")

    told = 0
    with pytest.raises(OSError, match="the disk is full"), InBackground([faulty]) as background:
        for told in range(100):
            background(toy_sample(1, told), OUTPUT, {})
    assert 2 <= told < 2 + results.IMAGES_BEHIND + 1
    with pytest.raises(OSError, match="the disk is full"), InBackground([faulty]) as background:
        background(toy_sample(1, 2), OUTPUT, {})


def test_a_fault_of_the_network_does_not_wait_for_the_rest() -> None:
    gate, seen = threading.Event(), []

    def slow(sample: Sample, *_: object) -> None:
        gate.wait(10)
        seen.append(sample.image_id)

    with pytest.raises(ValueError, match="network"), InBackground([slow]) as background:
        for k in range(5):
            background(toy_sample(1, k), OUTPUT, {})
        threading.Timer(0.2, gate.set).start()
        raise ValueError("network")
    assert seen == [0]


def test_notes_of_the_pictures_are_the_quality_of_each_map(monkeypatch: pytest.MonkeyPatch) -> None:
    sample = toy_sample(4, 3)
    exact = sample.annotations.panoptic
    nothing = PanopticMap(torch.full_like(exact.ids, 9), (Segment(9, 4, False, exact.ids.numel()),))
    shown: list[Any] = []
    monkeypatch.setattr(results, "save_sheet", lambda path, rows, *_, **__: shown.extend(rows))
    pictures = Pictures(toy_categories(), "mine", 1)
    pictures(sample, OUTPUT, {"score": nothing, "mine": exact})
    assert pictures.save(None)  # type: ignore[arg-type]
    things = f"{len(sample.annotations.labels)} things"
    assert shown[0].notes == {"ground truth": things, "score": "PQ 0.0", "mine": "PQ 100.0"}
