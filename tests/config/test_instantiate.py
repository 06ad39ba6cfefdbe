"""Objects from configurations: parameters that fit, and what a run folder may name."""

from __future__ import annotations

import functools
import json
import re
from dataclasses import dataclass
from importlib import metadata
from types import SimpleNamespace
from typing import Any, Literal

import pytest
from omegaconf import DictConfig, OmegaConf

from panoptic_occ.common.errors import ConfigError, DataError
from panoptic_occ.common.kinds import Count, Share
from panoptic_occ.config.instantiate import check_targets, safe_instantiate
from panoptic_occ.config.values import checked


@dataclass(frozen=True)
class Point:
    """Something to build: ``x`` from the configuration, ``at`` given at run time."""

    x: list[int]
    at: Any = None
    scale: float = 1.0

    def __post_init__(self) -> None:
        if self.scale < 0:
            raise DataError("scale is negative")


def point(**values: Any) -> DictConfig:
    return OmegaConf.create({"point": {"_target_": f"{__name__}.Point", **values}}).point


def test_objects_get_plain_containers_and_untouched_arguments() -> None:
    other = Point([0])
    built = safe_instantiate(point(x=[1, 2]), at=other)
    assert type(built.x) is list
    assert built.at is other


def test_partials_take_the_rest_later() -> None:
    factory = safe_instantiate(point(_partial_=True, scale=2.0), x=[5])
    assert isinstance(factory, functools.partial)
    assert factory(at=3) == Point([5], 3, 2.0)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (point(x=[1], scal=2), r"point\.scal: .*Point has no parameter 'scal'; did you mean 'scale'\? allowed: at, sc"),
        (point(_partial_=True, scal=2), "did you mean 'scale'"),
        (point(), "point: .*Point: missing a required argument: 'x'"),
        (OmegaConf.create({"a": {"_target_": "torch.nn.Linaer"}}).a, "a: Error locating target 'torch.nn.Linaer'"),
        (OmegaConf.create({"a": {"x": 1}}).a, "a: no _target_"),
    ],
)
def test_wrong_parameters_are_answered_with_the_right_ones(config: DictConfig, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        safe_instantiate(config)


def test_errors_of_constructors_pass_through() -> None:
    with pytest.raises(DataError, match="scale is negative"):
        safe_instantiate(point(x=[1], scale=-1))
    with pytest.raises(DataError, match="scale is negative"):  # nested, where Hydra wraps it
        safe_instantiate(point(x=[1], at=point(x=[1], scale=-1)))


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "builtins.eval",
        "subprocess.Popen",
        "hydra.utils.call",
        "numpy.load",
        "scipy.io.loadmat",
        "omegaconf.OmegaConf.load",
        "functools.partial",
        "torch.load",
        "torch.hub.load",
        "torch.ops.load_library",
        "torch.utils.cpp_extension.load_inline",
        "torch.os.system",
        "torch.nn.modules.module.functools.partial",
        "torch.nn.modules.module.warnings.sys.exit",
        "torch.nn.functional.relu",
        "torch.distributed.elastic.multiprocessing.subprocess_handler.SubprocessHandler",
        "panoptic_occ.common.files.write_text",
        "panoptic_occ.common.files.os.replace",
        "panoptic_occ.config.instantiate.safe_instantiate",
        "panoptic_occ.no_such_module.Thing",
        "panoptic_occevil.Thing",
        "panoptic_occ.fusion.engine.fuse",
        ["torch.nn.Linear"],
        None,
    ],
)
def test_a_run_folder_cannot_name_code(target: object) -> None:
    config = OmegaConf.create({"name": target, "model": {"parts": [{"_target_": "${name}"}]}})
    with pytest.raises(ConfigError, match=r"runs/a/config.yaml: model\.parts\.0\._target_=.* is not allowed") as error:
        check_targets(config, "runs/a/config.yaml")
    assert not re.search(r"trusted=\[(?!panoptic_occevil)", str(error.value))


def test_a_run_folder_may_name_what_runs_consist_of() -> None:
    for target in ("torch.nn.Linear", "torch.optim.SGD", "torch.optim.lr_scheduler.StepLR"):
        check_targets(OmegaConf.create({"a": {"_target_": target}}), "config.yaml")


def test_own_packages_can_be_trusted() -> None:
    config = point(x=[1])
    package = __name__.partition(".")[0]
    with pytest.raises(ConfigError, match=rf"if '{package}' is a package of your own .*, add trusted=\[{package}\]"):
        check_targets(config, "config.yaml")
    check_targets(config, "config.yaml", trusted=[__name__])


@pytest.mark.parametrize("trusted", [[None], [5], [""], ["my-package"], ["a..b"], [["a"]]])
def test_what_is_trusted_is_the_name_of_a_package(trusted: list[Any]) -> None:
    with pytest.raises(ConfigError, match=r"trusted=\[.*\]: needs names of packages of your own"):
        check_targets(OmegaConf.create({}), "config.yaml", trusted)


def test_an_installed_package_in_a_folder_of_the_users_own_is_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    note = {"url": "file:///home/me/toys", "dir_info": {"editable": True}}
    own = SimpleNamespace(read_text=lambda name: json.dumps(note))
    monkeypatch.setattr(metadata, "packages_distributions", lambda: {"toys": ["toys"]})
    monkeypatch.setattr(metadata, "distribution", lambda name: own)
    with pytest.raises(ConfigError, match=r"add trusted=\[toys\]"):
        check_targets(OmegaConf.create({"_target_": "toys.Toy"}), "config.yaml")


@checked("toy")
def toy(width: Count, *, mode: Literal["fast", "exact"] = "fast", share: Share = None, part: str = "") -> list[Any]:  # type: ignore[assignment]
    return [width, mode, share, part]


def test_arguments_are_what_their_annotations_say() -> None:
    part = Point([0])
    assert toy(2, mode="exact", part=part) == [2, "exact", None, part]  # type: ignore[arg-type]
    for arguments, message in (
        ({"width": 0}, r"^toy\.width=0: allowed: a whole number, 1 or more"),
        ({"width": 1, "mode": "exat"}, r"^toy\.mode=exat: did you mean 'exact'\? allowed: fast, exact"),
        ({"width": 1, "share": float("nan")}, r"^toy\.share=nan: allowed: a number, 0 to 1"),
    ):
        with pytest.raises(ConfigError, match=message):
            toy(**arguments)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="width"):
        toy()  # type: ignore[call-arg]
