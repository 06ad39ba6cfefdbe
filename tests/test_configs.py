"""Every YAML of the suite composes, and what it describes can be built."""

from __future__ import annotations

from pathlib import Path

import pytest

from panoptic_occ.build import build_schedule
from panoptic_occ.categories import Categories
from panoptic_occ.config import compose, conf_dir
from panoptic_occ.errors import ConfigError
from panoptic_occ.instantiate import safe_instantiate

CATEGORIES = Categories.from_json(
    [{"id": 1, "name": "a", "isthing": 1}, {"id": 2, "name": "b", "isthing": 1}, {"id": 3, "name": "c", "isthing": 0}]
)
BUILT = ("backbone", "thing", "stuff", "occlusion", "fusion")


def choices(group: str) -> list[str]:
    root = conf_dir() / group
    return sorted(p.relative_to(root).with_suffix("").as_posix() for p in root.rglob("*.yaml"))


@pytest.mark.parametrize(("group", "choice"), [(g, c) for g in BUILT for c in choices(g)])
def test_module_builds(group: str, choice: str) -> None:
    node = compose([f"{group}={choice}", *(["backbone.weights=null"] if "resn" in choice else [])])[group]
    built = safe_instantiate(node)
    if node.get("_partial_"):
        built = built(in_channels=64, categories=CATEGORIES)
    assert built is not None


@pytest.mark.parametrize("choice", choices("schedule"))
def test_schedule_builds(choice: str) -> None:
    schedule = build_schedule(compose([f"schedule={choice}"]))
    for stage in ("base", "occlusion"):
        plan = schedule.stage(stage, schedule.reference_batch)
        assert all(0 < m < plan.steps for m in plan.milestones)
        assert plan.warmup_steps < plan.steps


@pytest.mark.parametrize("choice", choices("data"))
def test_data_module_builds(choice: str, tmp_path: Path) -> None:
    from panoptic_occ.build import data_settings

    data = safe_instantiate(data_settings(compose([f"data={choice}"])))
    assert data.batch_size >= 1


@pytest.mark.parametrize("choice", choices("method") + [f"experiment={c}" for c in choices("experiment")])
def test_methods_and_experiments_compose(choice: str) -> None:
    config = compose([choice if "=" in choice else f"method={choice}"])
    assert config.choices.occlusion and config.method.name


@pytest.mark.parametrize("choice", choices("trainer"))
def test_trainer_settings_are_lightnings(choice: str) -> None:
    import inspect

    import pytorch_lightning as pl

    node = compose([f"trainer={choice}"]).trainer
    assert node.keys() - {"_target_"} <= inspect.signature(pl.Trainer).parameters.keys()


def test_command_line_wins_over_the_method() -> None:
    config = compose(["method=ocfusion", "occlusion=area", "fusion.min_visible=0.3"])
    assert config.choices.occlusion == "area" and config.fusion.min_visible == 0.3


def test_no_class_count_in_any_file() -> None:
    for path in conf_dir().rglob("*.yaml"):
        assert "num_classes" not in path.read_text() and "num_things" not in path.read_text(), path


@pytest.mark.parametrize(
    ("override", "hint"),
    [("method=ocfusoin", "ocfusion"), ("methd=ocfusion", "method"), ("schedule.base.stpes=3", "steps")],
)
def test_misspellings_are_answered(override: str, hint: str) -> None:
    with pytest.raises(ConfigError, match=f"did you mean '.*{hint}"):
        compose([override])
