"""A run folder from somebody else is data: it builds only what runs consist of, and no word of it is composed."""

from __future__ import annotations

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from panoptic_occ.common.errors import ConfigError
from panoptic_occ.config.compose import compose
from panoptic_occ.runs.build import plan_of
from panoptic_occ.runs.plan import RunPlan

TOUCH = {"_target_": "pathlib.Path.touch"}
WORDS = ("fusion.erase_radius={_target_: pathlib.Path.touch}", "hydra.searchpath=[pkg://evil]", "trusted=[pathlib]")


def downloaded(folder: Path, *words: str, **settings: object) -> Path:
    """A run folder whose command is ``words`` and whose configuration has ``settings``."""
    config = compose(["experiment=tiny"])
    OmegaConf.set_struct(config, False)
    config.command = [*config.command, *words]
    OmegaConf.save(OmegaConf.merge(config, settings), folder / "config.yaml")
    return folder


def load(folder: Path, *overrides: str) -> RunPlan:
    return plan_of([f"run={folder}", *overrides])


def test_the_words_of_its_command_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "evil").mkdir()
    (tmp_path / "evil" / "__init__.py").write_text("raise SystemExit('ran')")
    plan = load(downloaded(tmp_path, *WORDS, compare=["rap"]), "fusion.min_visible=0.3", "fusion.conf_thr=0.6")
    assert (plan.policy.min_visible, plan.policy.conf_thr) == (0.3, 0.6)
    assert [order.name for order in plan.orders] == ["rap", "ocfusion"]


def test_a_choice_that_is_no_choice_is_not_composed(tmp_path: Path) -> None:
    choices = {"fusion": "../../evil", "hydra.searchpath": "[pkg://evil]", "backbone": "small,hydra/launcher=x"}
    plan = load(downloaded(tmp_path, choices=choices))
    assert plan.policy.conf_thr == compose(["experiment=tiny"]).fusion.conf_thr


@pytest.mark.parametrize("words", [(), ("fusion.min_visible=0.3",), ("fusion=rap",)])
def test_a_class_in_its_configuration_is_refused(tmp_path: Path, words: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match=r"config\.yaml: occlusion\._target_='pathlib\.Path\.touch' is not allowed"):
        load(downloaded(tmp_path, occlusion=TOUCH), *words)


def test_a_class_that_it_puts_together_is_refused(tmp_path: Path) -> None:
    hidden = {"half": "_tar", "fusion": {"erase_radius": '${oc.create:"{${half}get_: pathlib.Path.touch}"}'}}
    folder = downloaded(tmp_path, **hidden)
    with pytest.raises(ConfigError, match=r"pathlib\.Path\.touch.* is not allowed"):
        load(folder)


def test_it_cannot_trust_itself(tmp_path: Path) -> None:
    folder = downloaded(tmp_path, occlusion=TOUCH, trusted=["pathlib"])
    with pytest.raises(ConfigError, match=r"pathlib\.Path\.touch.* is not allowed"):
        load(folder)
