"""Learning rates and their scaling with the batch."""

from __future__ import annotations

import pytest
import torch

from panoptic_occ.common.errors import ConfigError
from panoptic_occ.runs.build import plan_of
from panoptic_occ.training.schedule import Schedule, StageSchedule


def schedule(*words: str) -> Schedule:
    built: Schedule = plan_of(["compare=[]", *words]).order.schedule.build()
    return built


def test_coco_1x_is_detectron2s() -> None:
    stage = schedule("schedule=coco_1x").stage("base", 16)
    assert (stage.lr, stage.steps, stage.milestones) == (0.02, 90000, (60000, 80000))
    rates = {step: stage.lr * stage.factor(step) for step in (0, 500, 1000, 59999, 60000, 80000, 89999)}
    assert rates[0] == pytest.approx(0.02e-3)
    assert rates[500] == pytest.approx(0.02 * (0.5 + 0.0005))
    assert [rates[k] for k in (1000, 59999)] == [0.02, 0.02]
    assert [rates[k] for k in (60000, 80000, 89999)] == pytest.approx([0.002, 0.0002, 0.0002])


def test_half_the_batch_is_half_the_rate_and_twice_the_steps() -> None:
    stage = schedule("schedule=coco_1x").stage("base", 8)
    assert (stage.lr, stage.steps, stage.milestones, stage.warmup_steps) == (0.01, 180000, (120000, 160000), 2000)


def test_optimiser_follows_the_factor() -> None:
    stage = StageSchedule(torch.optim.SGD, lr=1.0, steps=10, milestones=(2,), warmup_steps=0)
    optimizer, scheduler = stage.optimize([torch.nn.Parameter(torch.zeros(1))])
    rates = []
    for _ in range(4):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates == pytest.approx([1.0, 1.0, 0.1, 0.1])


def test_milestones_that_do_not_rise_are_named() -> None:
    with pytest.raises(ConfigError, match=r"\[5, 5\]"):
        StageSchedule(torch.optim.SGD, lr=0.1, steps=10, milestones=(5, 5))


def test_a_method_has_a_schedule_of_its_own() -> None:
    """``schedule.methods`` changes the named values of stage 2 for one method only; the command line wins over it."""
    small, oanet = (schedule(f"occlusion={order}").occlusion for order in ("ocfusion", "oanet"))
    assert (small.lr, small.steps) == (0.001, 180)
    assert (oanet.lr, oanet.steps, oanet.milestones, oanet.warmup_steps) == (0.02, 250, (200,), small.warmup_steps)
    assert schedule("occlusion=oanet", "schedule.occlusion.steps=7").occlusion.steps == 7
