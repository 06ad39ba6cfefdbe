"""Objects from configuration: ``_target_`` and its parameters, with errors that say what would have been right.

The configuration of a run folder may build less, see ``check_targets``.
"""

from __future__ import annotations

import functools
import inspect
import pkgutil
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from typing import Any, Generic, TypeVar

from omegaconf import DictConfig, OmegaConf

from panoptic_occ.common.errors import ConfigError, PanopticOccError, did_you_mean
from panoptic_occ.config.schema import parameters_of
from panoptic_occ.config.values import check_values, shown

T = TypeVar("T")

# Names, not packages, decide: torch alone has functions that unpickle files, download code and start processes.
CLASSES = (
    "panoptic_occ.",
    "pytorch_lightning.Trainer",
    "pytorch_lightning.callbacks.",
    "pytorch_lightning.loggers.",
    "pytorch_lightning.trainer.",
    "torch.nn.",
    "torch.optim.",
    "torchvision.ops.",
    "torchvision.transforms.",
)
# Functions can do anything with their arguments; these packages hold only ones that build modules.
FUNCTIONS = ("panoptic_occ.backbone.", "panoptic_occ.thing.", "panoptic_occ.stuff.", "panoptic_occ.occlusion.")


@dataclass(frozen=True, eq=False)
class Blueprint(Generic[T]):
    """An object as the configuration describes it, to be built when it is needed."""

    node: DictConfig

    def build(self, **kwargs: Any) -> T:
        """The object; ``kwargs``: what the configuration does not say of it.  Errors as ``safe_instantiate``."""
        if self.node.get("_partial_"):
            return safe_instantiate(self.node)(**kwargs)
        return safe_instantiate(self.node, **kwargs)

    def changed(self, values: Mapping[str, Any]) -> Blueprint[T]:
        """The same with other values of some settings, named within the group."""
        node = self.node.copy()
        node._set_parent(self.node._get_parent())  # errors name the whole key
        for name, value in values.items():
            node[name] = value
        return Blueprint(node)

    @property
    def settings(self) -> dict[str, Any]:
        """All settings, as plain values."""
        from omegaconf import OmegaConf

        plain: Any = OmegaConf.to_container(self.node, resolve=True)
        return plain


def safe_instantiate(config: DictConfig, /, **kwargs: Any) -> Any:
    """The object that ``config._target_`` makes from the configuration's parameters and ``kwargs``.

    With ``_partial_: true`` a callable that still takes the rest.  Lists and mappings arrive as plain ``list`` and
    ``dict``, ``kwargs`` as they are.  ConfigError for an unknown or missing parameter or target, for a value that is
    not what its annotation says, and where a constructor raises TypeError or ValueError; errors of the suite pass
    through.
    """
    import hydra
    from hydra.errors import InstantiationException

    key = config._get_full_key(None) or "configuration"
    if not OmegaConf.is_dict(config) or "_target_" not in config:
        raise ConfigError(f"{key}: no _target_, so nothing can be built from it; name a class or function there")
    nodes = dict(_nodes(OmegaConf.to_container(config, resolve=True), key))
    for path, node in nodes.items():
        _check_values(path, node)
    try:
        # As a partial, so that kwargs reach the target untouched: Hydra would turn dataclasses into configurations.
        factory = hydra.utils.instantiate(config, _partial_=True, _convert_="all")
    except InstantiationException as error:
        cause = error.__cause__
        if cause is None or isinstance(cause, ImportError):
            raise ConfigError(f"{key}: {error}{'' if cause is None else f' ({cause})'}") from error
        if isinstance(cause, TypeError | ValueError) and not isinstance(cause, PanopticOccError):
            inner = re.search(r"full_key: (\S+)", str(error))
            path = inner[1] if inner and inner[1] in nodes else key
            raise refusal(path, nodes[path], cause) from cause
        raise cause from None
    partial = bool(config.get("_partial_", False))
    _check_arguments(key, config._target_, factory.func, {**factory.keywords, **kwargs}, partial)
    build = functools.partial(_built, key, nodes[key], factory, **kwargs)
    return build if partial else build()


def check_targets(config: DictConfig, source: object, trusted: Iterable[str] = ()) -> None:
    """Raises ConfigError when a ``_target_`` anywhere in ``config`` names something that ``source`` may not build.

    A configuration that comes with a run folder may have been written by anybody, and ``_target_`` can name any
    callable: only what a model, its data and its training consist of is allowed, and packages that are ``trusted``.
    """
    packages = tuple(f"{_package(name)}." for name in trusted)
    for key, node in _nodes(OmegaConf.to_container(config, resolve=True)):
        target = node["_target_"]
        if not _allowed(target, packages):
            raise ConfigError(
                f"{source}: {f'{key}._target_'.lstrip('.')}={target!r} is not allowed in a run folder's configuration, "
                f"because it could run any code; allowed: classes in {', '.join(CLASSES + packages)}"
                f"{_advice(target)}"
            )


def _advice(target: object) -> str:
    """How a class of the user's own becomes allowed; of other packages it would allow all that they can do."""
    package = target.partition(".")[0] if isinstance(target, str) else ""
    others = {name.partition(".")[0] for name in CLASSES} | sys.stdlib_module_names
    if not package.isidentifier() or package in others or _is_installed(package):
        return "; do not use this run unless you know why it names that"
    return f"; if '{package}' is a package of your own and you trust this run, add trusted=[{package}]"


def _package(name: object) -> str:
    """A name that is ``trusted``; ConfigError for one that no package has."""
    package = str(name).rstrip(".") if isinstance(name, str) else ""
    if not all(part.isidentifier() for part in package.split(".")):
        raise ConfigError(f"trusted=[{name}]: needs names of packages of your own, as in trusted=[my_package]")
    return package


def _is_installed(package: str) -> bool:
    """Whether it comes from a package index, unlike one that lies in a folder of the user's own."""
    names = metadata.packages_distributions().get(package, [])
    return any("dir_info" not in (metadata.distribution(name).read_text("direct_url.json") or "") for name in names)


def _allowed(target: object, packages: tuple[str, ...]) -> bool:
    if not isinstance(target, str) or not target.startswith(CLASSES + packages):
        return False
    try:
        value = pkgutil.resolve_name(target)
    except (ImportError, AttributeError, ValueError):
        return False
    if target.startswith(packages):
        return True
    # Where it was defined counts: torch.nn.modules.module.functools.partial is none of torch's.
    home = f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', '')}"
    return home.startswith(CLASSES if inspect.isclass(value) else FUNCTIONS)


def refusal(key: str, node: Mapping[str, Any], error: BaseException) -> ConfigError:
    """What an error of the constructor of ``node`` says of its settings: those that it names, or all."""
    text = str(error)
    settings = {k: v for k, v in node.items() if not k.startswith("_") and not isinstance(v, dict)}
    named = [k for k, v in settings.items() if _names(text, k) or (isinstance(v, str) and _names(text, v))]
    values = ", ".join(f"{key}.{name}={shown(settings[name])}" for name in named or settings)
    return ConfigError(
        f"{values or key}: {node['_target_']} cannot be built with this ({type(error).__name__}: {text}); change it, "
        "or see with debug=true where the error comes from"
    )


def _names(text: str, word: str) -> bool:
    return re.search(rf"\b{re.escape(word)}\b", text) is not None


def _built(key: str, node: Mapping[str, Any], factory: Callable[..., Any], /, **kwargs: Any) -> Any:
    try:
        return factory(**kwargs)
    except PanopticOccError:
        raise
    except (TypeError, ValueError) as error:
        raise refusal(key, node, error) from error


def _nodes(node: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Everything in ``node`` that has a ``_target_``, by key."""
    if isinstance(node, dict) and "_target_" in node:
        yield path, node
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        yield from _nodes(value, f"{path}.{key}" if path else str(key))


def _check_values(path: str, node: Mapping[str, Any]) -> None:
    """Raises ConfigError for a value that is not what the annotation of its parameter says."""
    try:
        parameters = parameters_of(pkgutil.resolve_name(node["_target_"]))
    except Exception:  # of the target, of which Hydra says more; or of an annotation, which then says nothing
        return
    built = {
        name for name, value in node.items() if value == "???" or (isinstance(value, dict) and "_target_" in value)
    }
    check_values(path, {name: value for name, value in node.items() if name not in built}, parameters)


def _check_arguments(
    key: str, target: str, call: Callable[..., Any], arguments: Mapping[str, Any], partial: bool
) -> None:
    try:
        signature = inspect.signature(call)
    except ValueError:  # built-in callables have none
        return
    parameters = signature.parameters.values()
    names = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    if not any(p.kind == p.VAR_KEYWORD for p in parameters):
        for name in arguments.keys() - set(names):
            raise ConfigError(f"{key}.{name}: {target} has no parameter '{name}'; {did_you_mean(name, names)}")
    try:
        (signature.bind_partial if partial else signature.bind)(**arguments)
    except TypeError as error:
        raise ConfigError(f"{key}: {target}: {error}") from None
