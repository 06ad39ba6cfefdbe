"""The files of the configuration: where they lie, what can be chosen, and what Hydra and its errors make of them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    InterpolationResolutionError,
    MissingMandatoryValue,
    OmegaConfBaseException,
)

from panoptic_occ.common.errors import ConfigError, did_you_mean
from panoptic_occ.config.schema import is_parameter

CONFIG_NAME = "config"
REBUILD = "a file of your own may lack it, or the run is of another version; --cfg job prints what there is"


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

    search = [] if config_dir is None else [f"hydra.searchpath=[{json.dumps(f'file://{config_dir.resolve()}')}]"]
    with _another_hydra(), hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        config = hydra.compose(CONFIG_NAME, [*search, *overrides], return_hydra_config=True)
    choices: Mapping[str, Any] = config.hydra.runtime.choices
    with open_dict(config):
        del config["hydra"]
        config.choices = {group: name for group, name in choices.items() if "@" not in group}
    return config, config.choices.copy()


def explained(overrides: Sequence[str], config_dir: Path | None) -> tuple[DictConfig, Mapping[str, Any]]:
    """``composed``, with errors that say what would have been right."""
    from hydra.errors import HydraException

    try:
        return composed(overrides, config_dir)
    except (HydraException, OmegaConfBaseException) as error:
        raise explain(error, overrides, config_dir) from error


@contextmanager
def _another_hydra() -> Iterator[None]:
    """Lets a command that Hydra runs compose another configuration: Hydra keeps only one state at a time."""
    from hydra.core.global_hydra import GlobalHydra

    state = GlobalHydra.instance()
    outer, state.hydra = state.hydra, None
    try:
        yield
    finally:
        state.hydra = outer


def explain(error: Exception, overrides: Sequence[str] = (), config_dir: Path | None = None) -> ConfigError:
    """What a Hydra or OmegaConf error means for the user, with the closest name that exists."""
    from hydra.errors import MissingConfigException, OverrideParseException

    text = str(error)
    cause = error.__cause__
    if isinstance(error, OverrideParseException):
        return ConfigError(
            f"cannot read '{error.override}' ({text.splitlines()[0]}); write key=value, and quote a value with spaces "
            "or special characters: 'key=\"a value\"'"
        )
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        return _unknown_choice(error.missing_cfg_file, error.options, config_dir)
    if isinstance(error, MissingMandatoryValue):
        return ConfigError(f"'{error.full_key}' needs a value; add {error.full_key}=... to the command")
    if isinstance(error, InterpolationResolutionError):
        where = f"'{error.full_key}'" if error.full_key else "a value"
        return ConfigError(f"{where} refers to something that does not exist: {text.splitlines()[0]}")
    if isinstance(error, ConfigAttributeError | ConfigKeyError):
        return ConfigError(f"'{error.full_key}' is read here, but the configuration does not have it; {REBUILD}")
    unknown = re.search(r"Could not (?:override|delete(?: from config)?)[ .]*'([^'=]+)", text)
    if isinstance(cause, ConfigAttributeError | ConfigKeyError) and cause.full_key:
        return _unknown_key(cause.full_key, overrides, config_dir)
    if unknown:
        return _unknown_key(unknown[1], overrides, config_dir)
    return ConfigError(text.strip() + (f" ({cause})" if cause is not None else ""))


def _unknown_choice(path: str, options: Sequence[str] | None, config_dir: Path | None) -> ConfigError:
    parts = path.removesuffix(".yaml").split("/")
    if len(parts) == 1:
        return ConfigError(f"there is no configuration '{parts[0]}.yaml'; {did_you_mean(parts[0], [CONFIG_NAME])}")
    groups = group_choices(config_dir)
    # experiment=ocfusion/table6 belongs to the group 'experiment', hydra/launcher=slurm to 'hydra/launcher'.
    size = 1 if parts[0] in groups else len(parts) - 1
    group, choice = "/".join(parts[:size]), "/".join(parts[size:])
    allowed = groups.get(group) or options or []
    return ConfigError(f"{group}={choice}: group '{group}' has no choice '{choice}'; {did_you_mean(choice, allowed)}")


def _unknown_key(key: str, overrides: Sequence[str], config_dir: Path | None) -> ConfigError:
    if key.startswith("hydra."):
        return ConfigError(f"there is no key '{key}'; --cfg hydra prints Hydra's own settings")
    groups = group_choices(config_dir)
    config = _chosen(overrides, groups, config_dir)
    keys = list(_paths(OmegaConf.to_container(config)))
    if is_parameter(config, key):
        return ConfigError(f"'{key}' is not set by default; +{key}=... sets it")
    parent = key.rpartition(".")[0]
    while parent and parent not in keys:
        parent = parent.rpartition(".")[0]
    prefix = f"{parent}." if parent else ""
    name = key.removeprefix(prefix)
    siblings = {k.removeprefix(prefix) for k in keys if k.startswith(prefix)} | (set() if parent else groups.keys())
    allowed = {k for k in siblings if "." not in k and not k.startswith("_")}
    there = any(path.endswith(f".{name}") for path in keys)
    hint = _elsewhere(name, keys) if there or not get_close_matches(name, allowed, n=1) else ""
    what = f"'{parent}' has no key '{name}'" if parent else f"there is no key or group '{name}'"
    rest = did_you_mean("" if hint else name, allowed)
    return ConfigError(f"{what}; {hint}{rest}; +{key}=... adds a new key")


def _elsewhere(name: str, keys: Sequence[str]) -> str:
    """A hint at a key of the same or nearly the same name under another parent, as fusion.sig_ratio."""
    homes = {path.rpartition(".")[2]: path for path in keys if not path.startswith("choices.")}
    close = get_close_matches(name.rpartition(".")[2], homes, n=1, cutoff=0.8)
    return f"did you mean '{homes[close[0]]}'? " if close else ""


def _chosen(overrides: Sequence[str], groups: Mapping[str, object], config_dir: Path | None) -> DictConfig:
    """The configuration with the groups that the user chose, as far as they exist."""
    from hydra.errors import HydraException

    chosen = [word.partition(",")[0] for word in overrides if word.partition("=")[0] in groups]
    try:
        return composed(chosen, config_dir)[0]
    except HydraException:
        return composed((), config_dir)[0]


def _paths(node: object, prefix: str = "") -> Iterator[str]:
    if isinstance(node, dict):
        for key, value in node.items():
            yield f"{prefix}{key}"
            yield from _paths(value, f"{prefix}{key}.")
