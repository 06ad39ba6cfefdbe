"""The configuration of a finished run with the words of a later command on top.

The file of a run is data: its values are taken, nothing of it is composed.  Only the names of its choices are, as far
as they are choices that exist here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from panoptic_occ.common.errors import CheckpointError, ConfigError
from panoptic_occ.common.files import check_regular
from panoptic_occ.common.kinds import Scope
from panoptic_occ.config.compose import MISSING, finish
from panoptic_occ.config.files import explained, group_choices, users_conf
from panoptic_occ.config.schema import GROUPS, INHERITED, entries_of, value_at

WIDE = ("preset", "method", "experiment", "sweep")
"""Groups that choose in other groups."""

MAX_DEPTH = 50
"""Of parts in each other in the configuration of a run; ours have seven."""


def read_config(file: Path) -> DictConfig:
    """The configuration that a run has saved; CheckpointError when there is none or the file is damaged.

    ``train`` writes values alone.  An alias of YAML or a reference to another value, of which a few can stand for
    more than fits into memory, is refused.
    """
    import yaml

    if not file.exists():
        runs = sorted(str(path.parent) for path in file.parent.glob("**/config.yaml")) if file.parent.is_dir() else []
        raise CheckpointError(
            f"{file.parent}: not a run folder (no config.yaml in it); run= takes the folder that train printed at its "
            f"end; runs below it: {', '.join(runs[:5]) or '(none)'}"
        )
    try:
        check_regular(file)
        text = file.read_text(encoding="utf-8")
        problem = next(_foreign_parts(text), "")
        config = None if problem else OmegaConf.create(text)
    except (OSError, UnicodeDecodeError, ValueError, yaml.YAMLError, OmegaConfBaseException) as error:
        problem = str(error).splitlines()[0]
    else:
        if isinstance(config, DictConfig) and _is_of_train(OmegaConf.to_container(config)):
            return config
        problem = problem or "it lacks what train writes"
    raise CheckpointError(f"{file}: damaged ({problem}); the command that made the run writes it again with force=true")


def _foreign_parts(text: str) -> Iterator[str]:
    """What ``train`` does not write and what could expand without end."""
    import yaml

    depth = 0
    for event in yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            yield f"line {event.start_mark.line + 1}: its parts lie too deep in each other"
        if isinstance(event, yaml.AliasEvent):
            yield f"line {event.start_mark.line + 1} has an alias, *{event.anchor}"
        if isinstance(event, yaml.ScalarEvent) and "${" in event.value:
            yield f"line {event.start_mark.line + 1} refers to another value"


def _is_of_train(content: Any) -> bool:
    groups = dict.fromkeys((key for key in GROUPS.keys() - {*WIDE, "logger"} if "." not in key), dict)
    parts = {"choices": dict, "command": list, "runs_dir": str, **groups}
    whole = all(isinstance(content.get(key), kind) for key, kind in parts.items())
    return whole and all(isinstance(word, str) for word in content["command"])


def config_of_run(saved: DictConfig, words: Sequence[str], config_dir: Path | None = None) -> DictConfig:
    """``saved`` with what ``words`` change; what the table of settings does not let a command inherit is as the words
    alone have it.

    A group chosen by a word reads what the run chose (its data, its schedule), not the defaults.  ConfigError for
    words that do not fit the configuration of this run.
    """
    config_dir = config_dir or users_conf()
    words = [word.removeprefix("++") for word in words if not word.startswith("hydra")]
    keys = [word.lstrip("+~").partition("=")[0] for word in words]
    groups = group_choices(config_dir)
    wide = [word for word, key in zip(words, keys, strict=True) if key in WIDE]
    chosen = {key for key in keys if key in groups} | _chosen_by(wide, config_dir)
    narrow = {g: choice for g, choice in saved.choices.items() if g in GROUPS.keys() - {*WIDE, *chosen}}
    inherited = {g: choice for g, choice in narrow.items() if GROUPS[g].scope in INHERITED}
    kept = [f"{group}={choice}" for group, choice in inherited.items() if choice in groups[group]]
    elsewhere = {g for g, choice in narrow.items() if choice not in groups.get(g, ()) and g in saved}
    for group, choice in inherited.items():
        if group in elsewhere and any(key.startswith(f"{group}.") for key in keys):
            raise ConfigError(
                f"{group}={choice}, which the run chose, is no choice here, so that no word can be about {group}; "
                "--config-dir names the folder of your own configuration files"
            )
    fresh, choices = explained([*kept, *words], config_dir)
    changed = {*keys, *chosen, *(_differences(explained(kept, config_dir)[0], fresh) if wide else ())}
    values, before = _plain(fresh), _plain(saved)
    values |= {group: {} for group in elsewhere & inherited.keys()}
    changed |= _followed(fresh, saved)
    for key, entries in entries_of(saved):
        from_run = all(entry.from_run for entry in entries) or key.partition(".")[0] in elsewhere
        if entries and from_run and not any(f"{key}.".startswith(f"{part}.") for part in changed):
            _put(values, key, value_at(before, key))
            for inside in (word for word in keys if word.startswith(f"{key}.")):
                _put(values, inside, value_at(_plain(fresh), inside))
    taken = {**saved.choices, **{group: choices[group] for group in choices if group in {*chosen, *keys}}}
    config = finish(OmegaConf.create(values), taken, words, config_dir)
    # for the advice how to train another order of this run; the words of the file are data, shown and never composed,
    # and whoever follows the advice shall not build what the file could not
    told = [word for word in saved.command if "_target_" not in word]
    later = [word for word in config.command if not re.match(r"[+~]*data[.=]", word)]
    config.command = list({word.lstrip("+~").partition("=")[0]: word for word in [*told, *later]}.values())
    return config


def _chosen_by(words: Sequence[str], config_dir: Path | None) -> set[str]:
    """The groups in which a preset, a method or an experiment chooses."""
    if not words:
        return set()
    before, after = (explained(some, config_dir)[1] for some in ((), words))
    return {group for group in after if after[group] != before.get(group)} - {*WIDE}


def _followed(fresh: DictConfig, saved: DictConfig) -> set[str]:
    """Leaves of ``fresh`` that refer to others, as ``data.source.root`` to ``data.root``, and whose value in the run is
    that of the other: they go with it, except for what the weights depend on."""
    values, trial, followed = _plain(fresh), saved.copy(), set()
    for key, entries in entries_of(fresh):
        reference, value = value_at(values, key), OmegaConf.select(saved, key, default=MISSING)
        trained = any(entry.scope in (Scope.BASE, Scope.MODULE) for entry in entries)
        if "${" not in str(reference) or value is MISSING or trained:
            continue
        OmegaConf.update(trial, key, reference)
        with suppress(OmegaConfBaseException):  # a reference to what the run does not have
            if OmegaConf.select(trial, key) == value:
                followed.add(key)
        OmegaConf.update(trial, key, value)
    return followed


def _differences(before: DictConfig, after: DictConfig) -> set[str]:
    """Leaves of ``after`` that ``before`` has otherwise or not at all; references count as they are written."""
    old = _leaves(before)
    return {key for key, value in _leaves(after).items() if old.get(key, MISSING) != value} - {"choices", "command"}


def _leaves(config: DictConfig) -> dict[str, Any]:
    plain = _plain(config)
    return {key: value_at(plain, key) for key, _ in entries_of(config)}


def _plain(config: DictConfig) -> Any:
    return OmegaConf.to_container(config, resolve=False)


def _put(tree: Any, key: str, value: Any) -> None:
    *parents, last = key.split(".")
    for part in parents:
        if not isinstance(tree.get(part), dict):
            tree[part] = {}
        tree = tree[part]
    tree[last] = value
