"""From words to a configuration: composed, complete, checked."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, get_origin

from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from panoptic_occ.common.errors import ConfigError, did_you_mean
from panoptic_occ.config.files import explain, explained, group_choices, users_conf
from panoptic_occ.config.grid import grid_lists
from panoptic_occ.config.schema import DECIDED, ORACLES, SETTINGS, entries_of
from panoptic_occ.config.values import fits, is_text, problem

MISSING = object()  # a value that is given later, as those of loggers


def compose(overrides: Sequence[str] = (), config_dir: Path | None = None) -> DictConfig:
    """The configuration that a command gets for these overrides, without starting the command.

    Raises ConfigError with what would have been right when a key, group or choice does not exist.
    """
    return finish(*explained(overrides, config_dir), overrides, config_dir)


def finish(
    config: DictConfig, choices: Mapping[str, Any], overrides: Sequence[str], config_dir: Path | None = None
) -> DictConfig:
    """Completes a composed configuration in place: ``choices`` (what Hydra chose for every group), ``command`` (the
    words that led to it), and all references resolved.

    A reference to a key that does not exist and a value that is not allowed fail here, not after an hour of training.
    """
    with open_dict(config):
        config.choices = {group: name for group, name in choices.items() if not group.startswith("hydra/")}
        config.command = [word for word in overrides if not word.startswith("hydra")]
        # the command line wins over what the schedule says about a method
        words = [word for word in config.command if word.startswith("schedule.occlusion.")]
        typed = OmegaConf.select(OmegaConf.from_dotlist(words), "schedule.occlusion", default={})
        for different in (config.schedule.get("methods") or {}).values():
            for key in typed.keys() & different.keys():
                del different[key]
    try:
        check_settings(config, config.command, group_choices(config_dir or users_conf())["occlusion"])
        OmegaConf.resolve(config)
    except OmegaConfBaseException as error:
        raise explain(error, overrides, config_dir) from error
    return config


def check_settings(config: DictConfig, words: Sequence[str], orders: Collection[str]) -> None:
    """Raises ConfigError for the first value that is not of its kind; ``orders``: what can be compared.

    What can only be meant in one way is put in place: ``compare=score``, ``run=2024``, ``validate=null``, 1e3 steps.
    """
    if config.validate is None:
        config.validate = {"every": None, "images": 1}
    if config.policies is None:
        config.policies = {}
    typed = dict(word.lstrip("+").partition("=")[::2] for word in words)
    check_values(config, typed)
    grid_lists(config)
    _check_words("compare", config.compare, orders, "; --config-dir names the folder of orders of your own")
    _check_words("oracle", config.oracle, ORACLES)
    for title, changes in config.policies.items():
        if not OmegaConf.is_dict(changes):
            example = f"'policies={{{title}: {{duplicate_thr: 0.5}}}}'"
            raise ConfigError(f"policies.{title}={changes}: allowed: changes of the fusion policy, as {example}")
        for name in changes.keys() - config.fusion.keys():
            raise ConfigError(f"policies.{title}: 'fusion' has no key '{name}'; {did_you_mean(name, config.fusion)}")


def check_values(config: DictConfig, typed: Mapping[str, str] | None = None) -> None:
    """Raises ConfigError for the first value that the table of settings does not allow; ``typed``: the words of a
    command line by key, to take what looks like a number as the text that it stands for."""
    for key, entries in list(entries_of(config)):
        chosen = OmegaConf.select(config, key, default=MISSING)
        if not entries and any(row.startswith(f"{key}.") for row in SETTINGS):
            raise ConfigError(str(problem(key, chosen, dict)))
        if chosen is MISSING or not entries:
            continue
        value = OmegaConf.to_container(chosen, resolve=True) if OmegaConf.is_config(chosen) else chosen
        meant = _meant(value, entries[0].kind, (typed or {}).get(key, str(value)))
        if wrong := problem(key, meant, entries[0].kind):
            raise ConfigError(wrong)
        if meant is not value:
            OmegaConf.update(config, key, meant)
        for part, why in DECIDED.items():
            if value is not None and f"{key}.".startswith(f"{part}."):
                raise ConfigError(f"{part}={value}: {why}")


def _meant(value: Any, kind: Any, text: str) -> Any:
    """``value`` as the kind that it stands for: a list of one, a path that looks like a number, 1e3 steps."""
    if get_origin(kind) is list and not isinstance(value, list):
        return [] if value is None else [value]
    if is_text(kind) and type(value) in (int, float):
        return text
    if type(value) is float and value.is_integer() and not fits(value, kind) and fits(int(value), kind):
        return int(value)
    return value


def _check_words(key: str, words: Collection[Any], allowed: Collection[Any], hint: str = "") -> None:
    for word in words:
        if word not in allowed:
            raise ConfigError(f"{key}=[{word}] is unknown; {did_you_mean(word, allowed)}{hint}")


def order_configs(config: DictConfig, names: Sequence[str], config_dir: Path | None = None) -> dict[str, DictConfig]:
    """``config`` with each of the orders ``names``, on the same base; all are read in one composition."""
    others = [name for name in names if name != config.choices.occlusion]
    nodes = _orders(tuple(others), config_dir or users_conf()) if others else {}
    configs = {str(config.choices.occlusion): config}
    for number, name in enumerate(others):
        configs[name] = config.copy()
        with open_dict(configs[name]):
            configs[name].occlusion = OmegaConf.to_container(nodes[f"order{number}"], resolve=False)
            configs[name].choices.occlusion = name
        OmegaConf.resolve(configs[name])
    return {name: configs[name] for name in names}


@cache
def _orders(names: tuple[str, ...], config_dir: Path | None) -> DictConfig:
    """The files of several orders, references not resolved, in one composition."""
    words = [f"+occlusion@orders.order{number}={name}" for number, name in enumerate(names)]
    nodes: DictConfig = explained(words, config_dir)[0].orders
    return nodes


def stage_of_order(config: DictConfig) -> DictConfig:
    """How the occlusion module of ``config`` trains: ``schedule.occlusion``, and what its method does differently."""
    different = (config.schedule.get("methods") or {}).get(config.choices.occlusion, {})
    stage: Any = OmegaConf.create({**config.schedule.occlusion, **different})
    stage._set_parent(config.schedule)  # errors name the whole key
    stage._set_key("occlusion")
    return stage
