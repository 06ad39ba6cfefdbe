"""The table of settings: what every leaf of the configuration may be, and what it changes (its scope).

A leaf has exactly one entry: a row of ``SETTINGS``, or the parameter that it becomes, whose annotation says both.  The
keys of folders, their names, what ``run=`` inherits, what a grid may vary, and what makes two results comparable follow
from the scopes; ``python -m scripts.configuration`` prints the table.
"""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, reduce
from operator import getitem
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Interval
from omegaconf import DictConfig, OmegaConf

from panoptic_occ.common.errors import ConfigError
from panoptic_occ.common.kinds import IN_GRID, Area, Count, NotNegative, Positive, Scope, Share, Size
from panoptic_occ.config.values import is_path

OURS = "panoptic_occ."
Oracle = Literal["box", "class", "order", "order_by_box", "stuff"]
"""Parts that ``oracle`` takes from the annotations; the order by mask or by box is one part."""
ORACLES = get_args(Oracle)


@dataclass(frozen=True)
class Setting:
    """A leaf, or all leaves below a key: the annotation of its value, and what it changes.

    ``named``: a word of the command line about it is part of the name of the folder that it leads to.  ``inherited``:
    ``run=`` takes it from the run, if its scope is one of ``INHERITED``.  ``in_grid``: a grid may vary it over one set
    of weights, although training reads it too.
    """

    kind: Any
    scope: Scope
    named: bool = True
    inherited: bool = True
    in_grid: bool = False

    @property
    def in_names(self) -> bool:
        """Whether the names of folders tell it: of data, the content counts and not the place."""
        return self.named and self.scope not in (Scope.MACHINE, Scope.COMMAND) and not is_path(self.kind)

    @property
    def from_run(self) -> bool:
        """Whether ``run=`` takes it from the run."""
        return self.inherited and self.scope in INHERITED


COMPUTING = frozenset({Scope.BASE, Scope.MODULE, Scope.DETECTIONS, Scope.RESULT, Scope.INPUT})
"""Scopes of what changes a result."""
INHERITED = COMPUTING | {Scope.LABEL}
"""Scopes of what a command takes from ``run=``."""

GROUPS: Mapping[str, Setting] = {
    "data": Setting(str, Scope.BASE, named=False),  # the folders of a data set lie together
    "backbone": Setting(str, Scope.BASE, named=False),  # has a place of its own in the name
    "thing": Setting(str, Scope.BASE),
    "stuff": Setting(str, Scope.BASE),
    "exchange": Setting(str, Scope.BASE),
    "occlusion": Setting(str, Scope.MODULE),
    "fusion": Setting(str, Scope.RESULT),
    "tta": Setting(str, Scope.DETECTIONS),
    "schedule": Setting(str, Scope.BASE),
    "schedule.occlusion": Setting(str, Scope.MODULE),
    "trainer": Setting(str, Scope.MACHINE, named=False),
    "logger": Setting(str, Scope.COMMAND, named=False),
    "preset": Setting(str, Scope.LABEL),
    "method": Setting(str, Scope.LABEL, named=False),  # has a place of its own in the name
    "experiment": Setting(str, Scope.LABEL),
    "sweep": Setting(str, Scope.LABEL, named=False, inherited=False),
}
"""Choices, and the scope of parameters in a group (or a part of one) that say none."""

_OF_BASE, _OF_RESULT, _OF_COMMAND = (Setting(bool, scope) for scope in (Scope.BASE, Scope.RESULT, Scope.COMMAND))

SETTINGS: Mapping[str, Setting] = {
    "seed": Setting(Annotated[int, Interval(ge=0, le=2**32 - 1)], Scope.BASE, named=False),
    "joint": _OF_BASE,
    "share": Setting(Literal["fpn", "backbone", "none"], Scope.BASE),
    "channels_last": _OF_BASE,
    "compile": _OF_BASE,
    "compare": Setting(list[str], Scope.RESULT, named=False),
    "policies": Setting(dict[str, Any], Scope.RESULT),
    "grid": Setting(Any, Scope.RESULT, inherited=False),
    "oracle": Setting(list[str], Scope.RESULT),
    "details": _OF_RESULT,
    "timing": _OF_RESULT,
    "average_precision": _OF_RESULT,
    "processes": Setting(Count | None, Scope.MACHINE),
    "run": Setting(str | None, Scope.COMMAND),
    "force": _OF_COMMAND,
    "save_maps": _OF_COMMAND,
    "save_predictions": _OF_COMMAND,
    "save_conf_thr": Setting(Share, Scope.COMMAND),
    "saved": _OF_COMMAND,
    "input": Setting(str | None, Scope.COMMAND),
    "images": Setting(str | None, Scope.COMMAND),
    "output": Setting(str | None, Scope.COMMAND),
    "check": _OF_COMMAND,
    "report": Setting(str | None, Scope.COMMAND),
    "validate.every": Setting(Count | None, Scope.COMMAND),
    "validate.images": Setting(Count, Scope.COMMAND),
    "runs_dir": Setting(str, Scope.COMMAND),
    "run_name": Setting(str | None, Scope.COMMAND),
    "trusted": Setting(list[str], Scope.COMMAND),
    "debug": _OF_COMMAND,
    "table": Setting(dict[str, Any] | None, Scope.LABEL),
    "backbones": Setting(dict[str, str], Scope.LABEL),
    "choices": Setting(dict[str, Any], Scope.LABEL),
    "command": Setting(list[str], Scope.LABEL),
    "method.name": Setting(str, Scope.LABEL),
    "backbone_name": Setting(str, Scope.LABEL),
    "data.name": Setting(str, Scope.LABEL),
    "data.root": Setting(str | None, Scope.LABEL, named=False),
    "data.stuff_area": Setting(Area, Scope.LABEL),
    "data.stuff_component_area": Setting(Area, Scope.LABEL),
    "data.erase_radius": Setting(Size, Scope.LABEL),
    "data.object_sizes": Setting(tuple[Positive, Positive], Scope.RESULT),
    "data.ocfusion": Setting(dict[str, Share], Scope.LABEL),
    "schedule.name": Setting(str, Scope.LABEL),
    "schedule.loss_weights": Setting(dict[str, NotNegative], Scope.BASE),
    "schedule.weights_of": Setting(dict[str, dict[str, NotNegative]], Scope.LABEL),
    "schedule.methods": Setting(dict[str, dict[str, Any]], Scope.LABEL),  # part of schedule.occlusion, see ``finish``
    "schedule.pairs_per_image": Setting(Count, Scope.LABEL),
    "trainer.devices": Setting(Count | Literal[-1, "auto"] | str | list[Size], Scope.MACHINE),
    "trainer.num_nodes": Setting(Count, Scope.MACHINE),
}
"""Leaves that no object of ours takes as they are, and whole parts (``table``)."""

_OF_TRAINER: Mapping[str, Scope] = {
    "precision": Scope.BASE,
    "gradient_clip_val": Scope.BASE,
    "gradient_clip_algorithm": Scope.BASE,
    "sync_batchnorm": Scope.BASE,
    "fast_dev_run": Scope.COMMAND,
}
SCOPES_OF_OTHERS: Mapping[str, Mapping[str, Scope]] = {
    "pytorch_lightning.trainer.trainer.Trainer": _OF_TRAINER,
    "lightning.pytorch.trainer.trainer.Trainer": _OF_TRAINER,  # the same in Lightning's other package
}
"""Parameters of classes that we cannot annotate, where they are not of their group's scope.  A class is named by where
it is defined, since ``_target_`` may name it by any module that imports it; its subclasses have the same."""

_STEPS = "schedule.base.steps and schedule.occlusion.steps say how long a stage trains"
_COUNTED = "it would leave results of fewer images, or weights of fewer steps, than they say"
DECIDED: Mapping[str, str] = {
    **dict.fromkeys((f"trainer.{end}" for end in ("max_steps", "min_steps", "max_epochs", "min_epochs")), _STEPS),
    "trainer.limit_train_batches": f"{_COUNTED}; data.max_train_images and schedule.base.steps are counted",
    "trainer.limit_test_batches": f"{_COUNTED}; data.max_eval_images is counted",
    "trainer.limit_val_batches": "validate.images says how many images a look at the network takes",
    "trainer.overfit_batches": f"{_COUNTED}; data.max_train_images is counted",
    "trainer.val_check_interval": "validate.every says how often the network is looked at",
    "trainer.check_val_every_n_epoch": "validate.every says how often the network is looked at",
    "trainer.accumulate_grad_batches": "steps count as batches here, and images would be repeated; choose a smaller "
    "data.batch_size, which lowers the rate and adds steps, or more processes",
    "trainer.use_distributed_sampler": "the data module shares the images among the processes itself",
    "trainer.logger": "the group logger says what is logged",
    "trainer.callbacks": "every stage has its own callbacks",
    "trainer.plugins": "every stage has its own plugins",
    "trainer.enable_checkpointing": "every stage saves checkpoints",
}
"""Parameters of classes of others that the suite decides itself: why, and what to set instead."""


def table_of(config: DictConfig) -> dict[str, Setting]:
    """The entry of every leaf of ``config`` by its dotted key; ConfigError for a leaf that has none or several."""
    table: dict[str, Setting] = {}
    for key, entries in entries_of(config):
        if len(entries) != 1:
            what = "no entry" if not entries else f"{len(entries)} entries"
            raise ConfigError(
                f"'{key}' has {what} in the table of settings; a new setting needs a row of SETTINGS, or a parameter "
                "of the class that takes it, and not both"
            )
        table[key] = entries[0]
    return table


def entries_of(config: DictConfig) -> Iterator[tuple[str, list[Setting]]]:
    """Every leaf of ``config`` with all its entries; a part that has an entry of its own counts as a leaf."""
    plain: Any = OmegaConf.to_container(config, resolve=False)
    yield from _entries(plain, "", Scope.LABEL)


def _entries(node: Mapping[str, Any], key: str, scope: Scope) -> Iterator[tuple[str, list[Setting]]]:
    target = node.get("_target_")
    parameters = _parameter_settings(target, scope) if isinstance(target, str) else {}
    scope = _scope_of_class(target) or scope if isinstance(target, str) else scope
    for name, value in node.items():
        path = f"{key}.{name}" if key else str(name)
        if str(name).startswith("_") and str(name).endswith("_"):
            yield path, [Setting(str if name == "_target_" else bool, scope, named=name == "_target_")]
            continue
        row, parameter = SETTINGS.get(path), parameters.get(str(name)) or parameters.get("**")
        if row is not None and not str(target).startswith(OURS):
            parameter = None  # others say less of it than we do
        inner = GROUPS[path].scope if path in GROUPS else parameter.scope if parameter is not None else scope
        if row is None and isinstance(value, dict) and ("_target_" in value or parameter is None):
            yield from _entries(value, path, inner)
        else:
            yield path, [entry for entry in (row, parameter) if entry is not None]


@cache
def _parameter_settings(target: str, scope: Scope) -> dict[str, Setting]:
    """What the parameters of a target say, by name; ``**`` where it takes any; nothing for one that cannot be found."""
    try:
        call = pkgutil.resolve_name(target)
        parameters = parameters_of(call)
    except Exception:  # of the target, of which Hydra says more when it is built
        return {"**": Setting(Any, scope)}
    default, others = _scope_of_class(target) or scope, _scopes_of_others(call)
    settings = {}
    for name, parameter in parameters.items():
        if parameter.kind == parameter.VAR_KEYWORD:
            settings["**"] = Setting(Any, default)
            continue
        kind: Any = Any if parameter.annotation is parameter.empty else parameter.annotation
        marks = get_args(kind)[1:] if get_origin(kind) is Annotated else ()
        scope_of_parameter = next((mark for mark in marks if isinstance(mark, Scope)), others.get(name, default))
        if parameter.default is None:
            kind = Union[kind, None]  # noqa: UP007 - of any annotation, also of one without the operator
        settings[name] = Setting(kind, scope_of_parameter, in_grid=IN_GRID in marks)
    return settings


def _scopes_of_others(call: object) -> Mapping[str, Scope]:
    """What ``SCOPES_OF_OTHERS`` says of a class, or of the nearest of its base classes."""
    homes = (f"{base.__module__}.{base.__qualname__}" for base in getattr(call, "__mro__", ()))
    return next((SCOPES_OF_OTHERS[home] for home in homes if home in SCOPES_OF_OTHERS), {})


def _scope_of_class(target: str) -> Scope | None:
    """The scope that a class of ours gives to its parameters (``OcclusionModel.scope``)."""
    try:
        scope = getattr(pkgutil.resolve_name(target), "scope", None)
    except (ImportError, AttributeError, ValueError):
        return None
    return scope if isinstance(scope, Scope) else None


@cache
def parameters_of(call: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The parameters of a function or a class, also those that a class leaves to its base classes (``**kwargs``)."""
    if not inspect.isclass(call):
        return dict(inspect.signature(call, eval_str=True).parameters)
    parameters: dict[str, inspect.Parameter] = {}
    for base in call.__mro__:
        if "__init__" in vars(base):
            named = dict(inspect.signature(vars(base)["__init__"], eval_str=True).parameters)
            rest = [name for name, parameter in named.items() if parameter.kind == parameter.VAR_KEYWORD]
            parameters = {**named, **parameters}
            if not rest:
                return {name: p for name, p in parameters.items() if p.kind != p.VAR_KEYWORD}
    return parameters


def values_of(config: DictConfig, scopes: Collection[Scope]) -> dict[str, Any]:
    """The values of all leaves of ``scopes`` by dotted key; classes of ours without the module that they lie in."""
    plain: Any = OmegaConf.to_container(config, resolve=True)
    values = {}
    for key, entries in entries_of(config):
        if entries and entries[0].scope in scopes and not key.endswith("._partial_"):
            value = value_at(plain, key)
            is_ours = key.endswith("._target_") and str(value).startswith(OURS)
            values[key] = str(value).rpartition(".")[2] if is_ours else value
    return values


def value_at(plain: Any, key: str) -> Any:
    """The value at a dotted key of a plain configuration."""
    return reduce(getitem, key.split("."), plain)


def setting_of(config: DictConfig, key: str) -> Setting | None:
    """The entry of a key of ``config``; of a part, that of its leaves which names tell before all others; None for a
    key that the table does not know."""
    below = [entries[0] for path, entries in entries_of(config) if entries and _touches(path, key)]
    return max(below, key=lambda entry: (entry.in_names, entry.scope in COMPUTING), default=None)


def _touches(path: str, key: str) -> bool:
    return path == key or path.startswith(f"{key}.") or key.startswith(f"{path}.")


def is_parameter(config: DictConfig, key: str) -> bool:
    """Whether the object that the parent of ``key`` describes could take it."""
    parent, _, name = key.rpartition(".")
    node: Any = OmegaConf.select(config, parent) if parent else None
    target = node.get("_target_") if OmegaConf.is_dict(node) else None
    return isinstance(target, str) and name in _parameter_settings(target, Scope.LABEL)


def setting_of_word(config: DictConfig, word: str) -> Setting | None:
    """The entry of what a word of the command line sets or chooses; None for one that the table does not know."""
    key = word.lstrip("+~").partition("=")[0]
    return GROUPS[key] if key in GROUPS and "." not in key else setting_of(config, key)


def in_names(config: DictConfig, word: str) -> bool:
    """Whether the names of folders tell a word of the command line."""
    entry = setting_of_word(config, word)
    tells = "=" in word or word.startswith("~")
    return tells and not word.startswith("hydra") and (entry is None or entry.in_names)
