"""The profile of a tiny run: every stage that must have happened was seen, and nothing stays wrapped."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest
import torch

from panoptic_occ.commands import evaluating as pipeline
from panoptic_occ.config.compose import compose
from panoptic_occ.data.loading.loader import SampleLoader
from panoptic_occ.evaluation import evaluator as evaluation
from panoptic_occ.runs.build import build_data
from panoptic_occ.structures.masks import PairStats
from scripts.benchmark import profile
from scripts.benchmark.profile import ELSE, PARTS, Profile, peak_mib, profiled, table, to_markdown

STATM = Path("/proc/self/statm")
NETWORK = {"configuration", "loading", "backbone", "thing", "exchange"}
EVALUATION = NETWORK | {"stuff", "pair statistics", "occlusion", "fusion", "metrics", "writing"}
SEEN = {
    "train, stage 1": NETWORK | {"stuff", "backward", "optimizer step", "writing"},
    "train, stage 2": NETWORK | {"occlusion", "pair statistics", "backward", "optimizer step", "writing"},
    "evaluate": EVALUATION,
    "evaluate save_predictions=true": EVALUATION,
    "evaluate saved=true": {"configuration", "loading", "occlusion", "fusion", "metrics", "writing"},
}


@pytest.fixture(scope="module")
def profiles(tmp_path_factory: pytest.TempPathFactory) -> list[Profile]:
    folder = tmp_path_factory.mktemp("profile")
    words = [*profile.QUICK_WORDS, *profile.in_folder(folder)]
    words += ["data.source.train_images=8", "data.source.val_images=4", "compare=[score]"]
    words += ["schedule.base.steps=2", "schedule.occlusion.steps=2"]
    build_data(compose(words))
    return [profiled(part, words) for part in PARTS]


def test_every_stage_is_seen_and_no_other(profiles: list[Profile]) -> None:
    found = {p.part: set(p.stages) | set(p.background) for p in profiles}
    assert found == {part: {*stages, ELSE} for part, stages in SEEN.items()}
    behind = {part: set(p.background) for p in profiles if (part := p.part) in SEEN}
    assert {"fusion", "metrics"} <= behind["evaluate"] and not behind["train, stage 1"]
    assert all(seconds > 0 for p in profiles for seconds in p.stages.values())
    assert [p.images for p in profiles] == [16, 16, 4, 4, 4]
    assert all(p.processor > 0 and 100 < p.peak_mib < 10000 for p in profiles)


def test_nothing_stays_wrapped(profiles: list[Profile]) -> None:
    functions = [pipeline.build_model, pipeline.build_occlusion, pipeline.show, SampleLoader.__iter__, PairStats.of]
    functions += [evaluation.relate, evaluation.fuse, evaluation.Evaluation.update, profile.compose]
    assert not any(hasattr(function, "__wrapped__") or hasattr(function, "mock_calls") for function in functions)
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    weight.sum().backward()
    optimizer.step()  # a hook that stayed would charge a clock
    assert weight.item() == -1


def test_the_table_adds_up() -> None:
    one = Profile("one", 10, {"loading": 1.0, ELSE: 3.0}, {"writing": 0.5}, 2.0, 123.4)
    two = Profile("two", 4, {"metrics": 2.0}, {}, 1.0, 200.0)
    header, rows = table([one, two])
    assert header == ["stage", "one", "two"]
    assert rows == [
        ["loading", "100.0 (25%)", ""],
        ["metrics", "", "500.0 (100%)"],
        [ELSE, "300.0 (75%)", ""],
        ["writing, meanwhile", "50.0 (12%)", ""],
        ["all, ms an image", "400.0", "500.0"],
        ["of it computing", "200.0", "250.0"],
        ["images", "10", "4"],
        ["highest memory, MiB", "123", "200"],
    ]
    assert "| loading | 100.0 (25%) |  |" in to_markdown(header, rows)


@pytest.mark.skipif(not STATM.exists(), reason="reads the memory of the process from /proc")
def test_the_high_water_mark_stays() -> None:
    resident = int(STATM.read_text().split()[1]) * resource.getpagesize() / (1 << 20)
    block = torch.ones(64 << 20, dtype=torch.uint8)
    risen = peak_mib()
    del block
    assert risen >= resident + 60
    assert peak_mib() >= risen - 4, "the kernel counts in batches of pages, but freed memory stays counted"


def test_it_writes_what_every_process_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def fake(part: str, words: list[str]) -> Profile:
        asked.append(part)
        return Profile(part, 1, {"loading": 1.0}, {}, 1.0, 1.0)

    monkeypatch.setattr(profile, "in_fresh_process", fake)
    monkeypatch.setattr(profile, "build_data", lambda cfg: None)
    profile.run(tmp_path, quick=True)
    assert asked == list(PARTS)
    assert "evaluate saved=true" in (tmp_path / "profile.md").read_text()
    assert (tmp_path / "profile.json").exists()
