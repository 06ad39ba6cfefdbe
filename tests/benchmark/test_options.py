"""The table of training options: ratios to the first row, from steps that were really trained."""

from __future__ import annotations

from pathlib import Path

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from panoptic_occ.config.compose import compose
from panoptic_occ.training.recipe import build_schedule
from scripts.benchmark.options import OPTIONS, WORDS, Speed, timed, to_markdown
from scripts.benchmark.profile import QUICK_WORDS, in_folder


def test_a_step_is_timed_and_nothing_stays_hooked(tmp_path: Path) -> None:
    words = [*QUICK_WORDS, *in_folder(tmp_path), "data.source.train_images=8", "schedule.base.steps=6"]
    seen: list[object] = []
    hook = register_optimizer_step_post_hook(lambda *_: seen.append(1))
    speed = timed("bf16", [*words, "trainer.precision=bf16-mixed"])
    hook.remove()
    cfg = compose(words)
    steps = build_schedule(cfg).stage("base", cfg.data.batch_size).steps
    assert len(seen) == steps > 5 and speed.option == "bf16"
    assert 0 < speed.step / 1000 < speed.start  # the first step waits for data, network and Lightning
    weight = torch.nn.Parameter(torch.zeros(1))
    weight.sum().backward()
    torch.optim.SGD([weight], lr=1.0).step()
    assert len(seen) == steps


def test_every_option_composes() -> None:
    for words in OPTIONS.values():
        cfg = compose([*WORDS, *words])
        assert cfg.schedule.base.steps > 20


def test_ratios_are_those_to_the_first_row() -> None:
    rows = to_markdown([Speed("defaults", 200.0, 4.0), Speed("compile=true", 160.0, 90.25)]).splitlines()
    assert rows[-2:] == ["| defaults | 200 | 1.00x | 4.0 |", "| compile=true | 160 | 1.25x | 90.2 |"]
