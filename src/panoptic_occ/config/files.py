"""The files of the configuration: where they lie, what can be chosen, and what Hydra makes of them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from panoptic_occ.common.errors import ConfigError

if TYPE_CHECKING:
    from omegaconf import DictConfig

CONFIG_NAME = "config"


def conf_dir() -> Path:
    """The folder of the configuration: inside the installed package, else at the root of the checkout."""
    package = Path(__file__).resolve().parents[1]
    candidates = (package / "conf", package.parents[1] / "conf")
    for folder in candidates:
        if (folder / f"{CONFIG_NAME}.yaml").is_file():
            return folder
    tried = " and ".join(str(folder) for folder in candidates)
    raise ConfigError(f"no {CONFIG_NAME}.yaml in {tried}; install the package again or run from a complete checkout")


def group_choices(config_dir: Path | None = None) -> dict[str, list[str]]:
    """Every config group with its choices; ``config_dir`` adds those of the user's own folder."""
    groups: dict[str, set[str]] = {}
    for root in (conf_dir(), *([config_dir] if config_dir else [])):
        for file in root.glob("*/**/*.yaml"):
            group, *name = file.relative_to(root).with_suffix("").parts
            if group == "hydra":  # settings of Hydra itself, nothing to choose from in daily work
                continue
            groups.setdefault(group, set()).add("/".join(name))
    return {group: sorted(names) for group, names in sorted(groups.items())}


def users_conf() -> Path | None:
    """The folder of the user's own configuration files (--config-dir) when a command runs."""
    from hydra.core.hydra_config import HydraConfig

    if not HydraConfig.initialized():
        return None
    sources = HydraConfig.get().runtime.config_sources
    return next((Path(s.path) for s in sources if s.provider == "command-line"), None)


def composed(overrides: Sequence[str], config_dir: Path | None) -> tuple[DictConfig, Mapping[str, Any]]:
    """What Hydra composes for these words, references not resolved, and what it chose for every group."""
    import hydra
    from omegaconf import open_dict

    search = [] if config_dir is None else [f"hydra.searchpath=[{json.dumps(f'file://{config_dir.resolve()}')}]"]
    with _own_hydra(), hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        config = hydra.compose(CONFIG_NAME, [*search, *overrides], return_hydra_config=True)
    choices: Mapping[str, Any] = config.hydra.runtime.choices
    with open_dict(config):
        del config["hydra"]
        config.choices = {group: name for group, name in choices.items() if "@" not in group}
    return config, config.choices.copy()


@contextmanager
def _own_hydra() -> Iterator[None]:
    """Lets a command that Hydra runs compose another configuration: Hydra keeps only one state at a time."""
    from hydra.core.global_hydra import GlobalHydra

    state = GlobalHydra.instance()
    outer, state.hydra = state.hydra, None
    try:
        yield
    finally:
        state.hydra = outer
