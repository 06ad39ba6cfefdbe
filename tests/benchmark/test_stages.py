"""A clock that is told the time: what each stage is charged, by hand."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from scripts.benchmark.stages import StageClock, wrapped


class Watch:
    """Seconds that only pass when told to."""

    def __init__(self) -> None:
        self.time = 0.0

    def __call__(self) -> float:
        return self.time

    def run(self, seconds: float) -> None:
        self.time += seconds


@pytest.fixture
def watch() -> Watch:
    return Watch()


@pytest.fixture
def clock(watch: Watch) -> StageClock:
    return StageClock(watch)


def test_an_outer_stage_stands_still_while_an_inner_one_runs(watch: Watch, clock: StageClock) -> None:
    watch.run(100)  # before any stage: nobody's
    with clock.stage("outer"):
        watch.run(1)
        with clock.stage("inner"):
            watch.run(10)
            with clock.stage("outer"):  # the same stage inside another
                watch.run(2)
            watch.run(20)
        watch.run(4)
    watch.run(100)
    with clock.stage("inner"):
        watch.run(30)
    assert clock.seconds == {"outer": 7, "inner": 60}
    assert not clock.background


def test_a_failing_function_is_charged_and_the_clock_goes_on(watch: Watch, clock: StageClock) -> None:
    def fails() -> None:
        watch.run(3)
        raise KeyError("no")

    with clock.stage("outer"):
        with pytest.raises(KeyError):
            clock.timed(fails, "inner")()
        watch.run(1)
    assert clock.seconds == {"outer": 1, "inner": 3}


def test_the_end_of_an_iteration_passes_through(watch: Watch, clock: StageClock) -> None:
    def batches() -> Iterator[int]:
        for k in range(3):
            watch.run(5)
            yield k
        watch.run(1)

    assert list(iter(clock.timed(batches().__next__, "loading"), None)) == [0, 1, 2]
    assert clock.seconds == {"loading": 16}


def test_other_threads_are_told_apart(watch: Watch, clock: StageClock) -> None:
    def work() -> None:
        with clock.stage("writing"):
            watch.run(8)

    with clock.stage("outer"):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert clock.background == {"writing": 8}
    assert clock.seconds == {"outer": 8}  # it waited


class Part:
    """Functions of every kind, each of which takes a second of the watch."""

    watch: Watch

    def method(self, x: int) -> int:
        self.watch.run(1)
        return x + 1

    @staticmethod
    def static(x: int) -> int:
        Part.watch.run(1)
        return x + 2


def test_functions_are_wrapped_for_a_while(watch: Watch, clock: StageClock) -> None:
    Part.watch = watch
    before = dict(vars(Part))
    one, other = Part(), Part()
    with wrapped(clock, Part, "static", "s"), wrapped(clock, one, "method", "m"):
        assert (one.method(1), other.method(1), Part.static(1), one.static(1)) == (2, 2, 3, 3)
    assert clock.seconds == {"m": 1, "s": 2}, "only the method of the one object counts"
    one.method(1), Part.static(1)
    assert clock.seconds == {"m": 1, "s": 2} and dict(vars(Part)) == before and not vars(one)
