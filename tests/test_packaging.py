"""What an installation contains, and that the checkout's files agree with each other."""

from __future__ import annotations

import os
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import panoptic_occ
from panoptic_occ.common.errors import ConfigError
from panoptic_occ.config import files as config_module
from panoptic_occ.config.files import conf_dir

ROOT = Path(__file__).resolve().parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def test_the_wheel_ships_code_and_configuration() -> None:
    wheel = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert wheel["only-include"] == ["src/panoptic_occ", "conf"]
    assert wheel["sources"] == {"src/panoptic_occ": "panoptic_occ", "conf": "panoptic_occ/conf"}
    assert (ROOT / PROJECT["tool"]["hatch"]["version"]["path"]).samefile(panoptic_occ.__file__)
    assert (Path(panoptic_occ.__file__).parent / "py.typed").is_file()


def test_the_configuration_of_an_installation_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert conf_dir() == ROOT / "conf"
    package = tmp_path / "lib" / "panoptic_occ"
    package.mkdir(parents=True)
    monkeypatch.setattr(config_module, "__file__", str(package / "config" / "files.py"))
    with pytest.raises(ConfigError, match=r"no config.yaml in .*panoptic_occ/conf and .*; install the package again"):
        conf_dir()
    for folder in (tmp_path / "conf", package / "conf"):  # a checkout's, then the package's own
        folder.mkdir()
        (folder / "config.yaml").touch()
        assert conf_dir() == folder


def test_constraints_are_exact_and_without_addresses() -> None:
    for name, version in pins().items():
        assert re.fullmatch(r"[a-z0-9][a-z0-9._-]*", name), name
        assert re.fullmatch(r"\d[0-9a-z.]*", version), version
        assert not name.startswith(("nvidia-", "cuda-", "triton")), f"{name} exists on some platforms only"


def test_every_dependency_is_pinned_within_its_bounds() -> None:
    extras = PROJECT["project"]["optional-dependencies"]
    for text in [*PROJECT["project"]["dependencies"], *extras["dev"], *extras["cluster"]]:
        requirement = Requirement(text)
        assert requirement.specifier.contains(pins()[canonicalize_name(requirement.name)]), text


def test_make_names_the_python_that_is_too_old(tmp_path: Path) -> None:
    old = tmp_path / "python"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo Python 3.8.2 && exit\nexit 1\n')
    old.chmod(0o755)
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    command = ["make", "venv", f"PYTHON={old}"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert f"Python 3.11 or newer is needed, {old} is Python 3.8.2" in done.stderr
    assert not (tmp_path / ".venv").exists()
