"""Listeners that work behind the network's back, and the pictures that one of them collects."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch

from panoptic_occ.common import background
from panoptic_occ.common.background import InBackground
from panoptic_occ.evaluation import listeners
from panoptic_occ.evaluation.listeners import Pictures
from panoptic_occ.structures.panoptic_map import PanopticMap, Segment
from panoptic_occ.structures.sample import Sample
from panoptic_occ.testing import toy_categories, toy_sample

OUTPUT: Any = None


class Waiting:
    """A listener that waits for its gate, and remembers."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.seen: list[int] = []

    def __call__(self, sample: Sample, *_: object) -> None:
        assert self.gate.wait(10) and threading.current_thread() is not threading.main_thread()
        assert torch.is_inference_mode_enabled()
        self.seen.append(sample.image_id)

    def open_soon(self) -> None:
        threading.Timer(0.2, self.gate.set).start()


def test_every_image_is_seen_in_order_and_none_is_lost() -> None:
    seen: list[tuple[str, int]] = []
    recording = [lambda s, o, m, name=name: seen.append((name, s.image_id)) for name in "ab"]
    with InBackground(recording) as hand_over:
        for k in range(30):
            hand_over(toy_sample(1, k), OUTPUT, {})
    assert seen == [(name, k) for k in range(30) for name in "ab"]


def test_the_caller_waits_when_it_is_too_far_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "IMAGES_BEHIND", 3)
    slow = Waiting()
    with InBackground([slow]) as hand_over:
        for k in range(3):
            hand_over(toy_sample(1, k), OUTPUT, {})
        assert not slow.seen  # the caller did not wait
        slow.open_soon()
        hand_over(toy_sample(1, 3), OUTPUT, {})
        assert slow.seen  # now it did
    assert slow.seen == [0, 1, 2, 3]


def test_a_fault_comes_out_at_a_later_image_or_at_the_end() -> None:
    def faulty(sample: Sample, *_: object) -> None:
        if sample.image_id == 2:
            raise OSError("the disk is full")

    handed = 0
    for images, first in ((range(100), 2), (range(2, 3), 2)):
        with pytest.raises(OSError, match="the disk is full"), InBackground([faulty]) as hand_over:
            for handed in images:
                hand_over(toy_sample(1, handed), OUTPUT, {})
        assert first <= handed < first + background.IMAGES_BEHIND + 1


def test_a_fault_of_the_network_does_not_wait_for_the_rest() -> None:
    slow = Waiting()
    with pytest.raises(ValueError, match="network"), InBackground([slow]) as hand_over:
        for k in range(5):
            hand_over(toy_sample(1, k), OUTPUT, {})
        slow.open_soon()
        raise ValueError("network")
    assert slow.seen == [0]


def test_notes_of_the_pictures_are_the_quality_of_each_map(monkeypatch: pytest.MonkeyPatch) -> None:
    sample = toy_sample(4, 3)
    exact = sample.annotations.panoptic
    nothing = PanopticMap(torch.full_like(exact.ids, 9), (Segment(9, 4, False, exact.ids.numel()),))
    rows: list[Any] = []
    monkeypatch.setattr(listeners, "sheet", lambda shown, *_: rows.extend(shown))
    monkeypatch.setattr(listeners, "save_sheet", lambda *_: None)
    pictures = Pictures(toy_categories(), "mine", 1)
    pictures(sample, OUTPUT, {"score": nothing, "mine": exact})
    assert pictures.save(None)  # type: ignore[arg-type]
    things = f"{len(sample.annotations.labels)} things"
    assert rows[0].notes == {"ground truth": things, "score": "PQ 0.0", "mine": "PQ 100.0"}
