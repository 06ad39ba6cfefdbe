"""Objects from configuration: ``_target_`` and its parameters, with errors that say what would have been right.

A configuration that comes with a run folder may have been written by anybody, and ``_target_`` can name any callable.
``check_targets`` therefore lets such a configuration build only what a model, its data and its training consist of.
"""

from __future__ import annotations

import functools
import inspect
import pkgutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from panoptic_occ.errors import ConfigError, PanopticOccError, did_you_mean

if TYPE_CHECKING:
    from omegaconf import DictConfig

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


def safe_instantiate(config: DictConfig, /, **kwargs: Any) -> Any:
    """The object that ``config._target_`` makes from the configuration's parameters and ``kwargs``.

    With ``_partial_: true`` a callable that still takes the rest.  Lists and mappings arrive as plain ``list`` and
    ``dict``, ``kwargs`` as they are.  An unknown or missing parameter or target raises ConfigError; errors of the
    suite that the constructor raises pass through unchanged.
    """
    import hydra
    from hydra.errors import InstantiationException
    from omegaconf import OmegaConf

    key = config._get_full_key(None) or "configuration"
    if not OmegaConf.is_dict(config) or "_target_" not in config:
        raise ConfigError(f"{key}: no _target_, so nothing can be built from it; name a class or function there")
    try:
        # As a partial, so that kwargs reach the target untouched: Hydra would turn dataclasses into configurations.
        factory = hydra.utils.instantiate(config, _partial_=True, _convert_="all")
    except InstantiationException as error:
        if error.__cause__ is None or isinstance(error.__cause__, ImportError):
            raise ConfigError(f"{key}: {error}{_reason(error.__cause__)}") from error
        raise error.__cause__ from None
    partial = bool(config.get("_partial_", False))
    _check_arguments(key, config._target_, factory.func, {**factory.keywords, **kwargs}, partial)
    return functools.partial(factory, **kwargs) if partial else factory(**kwargs)


def check_targets(config: DictConfig, source: object, trusted: Iterable[str] = ()) -> None:
    """Raises ConfigError when a ``_target_`` anywhere in ``config`` names something that ``source`` may not build.

    ``trusted``: packages of the user's own whose classes and functions are allowed too.
    """
    from omegaconf import OmegaConf

    own = tuple(f"{package.rstrip('.')}." for package in trusted)
    for key, target in _targets(OmegaConf.to_container(config, resolve=True)):
        if not _allowed(target, own):
            raise ConfigError(
                f"{source}: {key}={target!r} is not allowed in a run folder's configuration, because it could run any "
                f"code; allowed: classes in {', '.join(CLASSES + own)}; if you wrote this run and trust it, add "
                f"trusted=[{str(target).partition('.')[0]}]"
            )


def _allowed(target: object, own: tuple[str, ...]) -> bool:
    if not isinstance(target, str) or not target.startswith(CLASSES + own):
        return False
    try:
        found = pkgutil.resolve_name(target)
    except (ImportError, AttributeError, ValueError):
        return False
    if target.startswith(own):
        return True
    # Where it was defined counts: torch.nn.modules.module.functools.partial is none of torch's.
    home = f"{getattr(found, '__module__', '')}.{getattr(found, '__qualname__', '')}"
    return home.startswith(CLASSES if inspect.isclass(found) else FUNCTIONS)


def _targets(node: Any, path: str = "") -> Iterator[tuple[str, object]]:
    items: Iterable[tuple[object, Any]] = ()
    if isinstance(node, dict):
        items = node.items()
    elif isinstance(node, list):
        items = enumerate(node)
    for key, value in items:
        if key == "_target_":
            yield f"{path}{key}", value
        else:
            yield from _targets(value, f"{path}{key}.")


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


def _reason(cause: BaseException | None) -> str:
    return "" if cause is None or isinstance(cause, PanopticOccError) else f" ({cause})"
