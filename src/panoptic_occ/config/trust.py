"""What the configuration of a run folder may build.

A configuration that comes with a run folder may have been written by anybody, and ``_target_`` can name any callable.
``check_targets`` therefore lets such a configuration build only what a model, its data and its training consist of.
"""

from __future__ import annotations

import inspect
import pkgutil
import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from panoptic_occ.common.errors import ConfigError

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


def check_targets(config: DictConfig, source: object, trusted: Iterable[str] = ()) -> None:
    """Raises ConfigError when a ``_target_`` anywhere in ``config`` names something that ``source`` may not build.

    ``trusted``: packages of the user's own whose classes and functions are allowed too.
    """
    from omegaconf import OmegaConf

    packages = tuple(f"{package.rstrip('.')}." for package in trusted)
    for key, target in _targets(OmegaConf.to_container(config, resolve=True)):
        if not _allowed(target, packages):
            raise ConfigError(
                f"{source}: {key}={target!r} is not allowed in a run folder's configuration, because it could run any "
                f"code; allowed: classes in {', '.join(CLASSES + packages)}{_advice(target)}"
            )


def _advice(target: object) -> str:
    """How a class of the user's own becomes allowed; of other packages it would allow all that they can do."""
    package = str(target).partition(".")[0]
    if package in sys.stdlib_module_names or package in {name.partition(".")[0] for name in CLASSES}:
        return "; do not use this run unless you know why it names that"
    return f"; if '{package}' is a package of your own and you trust this run, add trusted=[{package}]"


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
