from __future__ import annotations

import math
import time

from panoptic_occ.metrics.counting import StepTime, timed


def test_timed_returns_the_result_and_how_long_it_took():
    result, nanoseconds = timed(lambda seconds, more: time.sleep(seconds) or more, 0.02, more="x")
    assert result == "x"
    assert 20e6 <= nanoseconds < 2e9


def test_mean_leaves_the_first_image_of_every_process_out():
    first, second = StepTime(), StepTime()
    for metric, milliseconds in ((first, 900), (first, 1), (first, 3), (second, 800), (second, 8)):
        metric.update(milliseconds * 1_000_000)
    assert second.compute() == 8.0
    first.merge_state(second)
    assert first.compute() == 4.0
    second.update(16_000_000, images=3)  # a batch
    assert second.compute() == 6.0
    assert math.isnan(StepTime().compute())
