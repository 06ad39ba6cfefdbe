"""A run folder from somebody else: its configuration and its command build only what runs consist of."""

from __future__ import annotations

from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

from panoptic_occ.commands.evaluating import compared_configs
from panoptic_occ.common.errors import ConfigError
from panoptic_occ.config.compose import compose
from panoptic_occ.runs.folders import load_run_config

CODE = "fusion.erase_radius={_target_: pathlib.Path.touch}"
# the same without the word _target_, which only appears when the references are resolved
HIDDEN = ["+half=_tar", """fusion.erase_radius='${oc.create:"{${half}get_: pathlib.Path.touch}"}'"""]


def downloaded(folder: Path, *words: str, **settings: object) -> Path:
    """A run folder whose configuration is harmless and whose command is ``words``."""
    config = compose(["experiment=tiny"])
    config.command = [*config.command, *words]
    OmegaConf.save(OmegaConf.merge(config, settings), folder / "config.yaml")
    return folder


def escaped(folder: Path) -> Path:
    """Has the words of the command arrive at Hydra as they are: OmegaConf would resolve them in the file already."""
    file = folder / "config.yaml"
    file.write_text(file.read_text().replace("${", "\\${"))
    return folder


def load(folder: Path, *overrides: str) -> DictConfig:
    return load_run_config(folder, compose([f"run={folder}", *overrides]), [f"run={folder}", *overrides])


def test_a_harmless_command_is_followed(tmp_path: Path) -> None:
    config = load(downloaded(tmp_path, "occlusion.sig_ratio=0.1", compare=["rap"]), "fusion.min_visible=0.3")
    assert config.fusion.min_visible == 0.3 and set(compared_configs(config)) == {"ocfusion", "rap"}


def test_a_class_in_the_command_does_not_reach_other_orders(tmp_path: Path) -> None:
    config = load(downloaded(tmp_path, CODE, compare=["rap"]))
    with pytest.raises(ConfigError, match=r"the command in config\.yaml: .*pathlib\.Path\.touch.* is not allowed"):
        compared_configs(config)


def test_a_class_that_the_command_puts_together_is_found(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"config\.yaml: its command: .*pathlib\.Path\.touch.* is not allowed"):
        load(escaped(downloaded(tmp_path, *HIDDEN)))


def test_the_command_cannot_trust_itself(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"pathlib\.Path\.touch.* is not allowed"):
        load(escaped(downloaded(tmp_path, *HIDDEN, "trusted=[pathlib]", trusted=["pathlib"])))
