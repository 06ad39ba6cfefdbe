"""Whether the values of a configuration are of their kinds, before anything is built."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any, get_origin

from panoptic_occ.common.errors import ConfigError, did_you_mean
from panoptic_occ.config.grid import grid_lists
from panoptic_occ.config.schema import DECIDED, ORACLES, SETTINGS, entries_of
from panoptic_occ.config.values import fits, is_text, problem

if TYPE_CHECKING:
    from omegaconf import DictConfig

MISSING = object()  # a value that is given later, as those of loggers


def check_settings(config: DictConfig, words: Sequence[str], orders: Collection[str]) -> None:
    """Raises ConfigError for the first value that is not of its kind; ``orders``: what can be compared.

    What can only be meant in one way is put in place: ``compare=score``, ``run=2024``, ``validate=null``, 1e3 steps.
    """
    from omegaconf import OmegaConf

    if config.validate is None:
        config.validate = {"every": None, "images": 1}
    if config.policies is None:
        config.policies = {}
    typed = dict(word.lstrip("+").partition("=")[::2] for word in words)
    for key, entries in list(entries_of(config)):
        chosen = OmegaConf.select(config, key, default=MISSING)
        if not entries and any(row.startswith(f"{key}.") for row in SETTINGS):
            raise ConfigError(str(problem(key, chosen, dict)))
        if chosen is MISSING or not entries:
            continue
        value = OmegaConf.to_container(chosen, resolve=True) if OmegaConf.is_config(chosen) else chosen
        meant = _meant(value, entries[0].kind, typed.get(key, str(value)))
        if wrong := problem(key, meant, entries[0].kind):
            raise ConfigError(wrong)
        if meant is not value:
            OmegaConf.update(config, key, meant)
        for part, why in DECIDED.items():
            if value is not None and f"{key}.".startswith(f"{part}."):
                raise ConfigError(f"{part}={value}: {why}")
    grid_lists(config)
    own = "; --config-dir names the folder of orders of your own"
    _check_words("compare", config.compare, orders, own)
    _check_words("oracle", config.oracle, ORACLES)
    for title, changes in config.policies.items():
        if not OmegaConf.is_dict(changes):
            example = f"'policies={{{title}: {{duplicate_thr: 0.5}}}}'"
            raise ConfigError(f"policies.{title}={changes}: allowed: changes of the fusion policy, as {example}")
        for name in changes.keys() - config.fusion.keys():
            raise ConfigError(f"policies.{title}: 'fusion' has no key '{name}'; {did_you_mean(name, config.fusion)}")


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
