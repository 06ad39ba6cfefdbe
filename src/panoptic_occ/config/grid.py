"""A grid of fusion and relation settings, evaluated in one pass over the same detections.

On the command line: ``'grid={fusion.min_visible: [0.4, 0.5, 0.6], occlusion.sig_ratio: [0.05, 0.1, 0.2]}'``.
"""

from __future__ import annotations

import pkgutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import product
from typing import Any

from omegaconf import DictConfig, OmegaConf

from panoptic_occ.common.errors import ConfigError, did_you_mean

Values = Mapping[str, Any]
"""Settings by dotted key."""


class Grid:
    """The values of ``cfg.grid`` by dotted key; no keys at all when it is null.

    ConfigError for a key that a grid cannot vary: what the network or its training depends on is no part of a pass.
    """

    def __init__(self, cfg: DictConfig) -> None:
        self.values = grid_lists(cfg)
        for key in self.values:
            _check_key(key, cfg)

    def points(self, group: str) -> list[Values]:
        """Every combination of the values below ``group`` (fusion or occlusion), one empty one when there are none."""
        keys = [key for key in self.values if key.startswith(f"{group}.")]
        return [dict(zip(keys, values, strict=True)) for values in product(*(self.values[key] for key in keys))]

    def title(self, values: Values) -> str:
        """A point as part of a name: ``min_visible=0.4, sig_ratio=0.1``; groups are named where the key alone is not
        enough."""
        last = Counter(key.rpartition(".")[2] for key in self.values)
        short = {key: key if last[key.rpartition(".")[2]] > 1 else key.rpartition(".")[2] for key in values}
        return ", ".join(f"{short[key]}={'null' if value is None else value}" for key, value in values.items())


def grid_lists(cfg: DictConfig) -> dict[str, list[Any]]:
    """The values of ``cfg.grid`` by dotted key; ConfigError when it is neither null nor lists by key."""
    grid = OmegaConf.to_container(cfg.grid, resolve=True) if OmegaConf.is_config(cfg.grid) else cfg.grid
    return {} if grid is None else dict(_lists(grid))


def changed(config: DictConfig, values: Values) -> DictConfig:
    """A copy of a group's configuration with the settings that ``values`` has for it."""
    copy = config.copy()
    for key, value in values.items():
        copy[key.partition(".")[2]] = value
    return copy


def _lists(node: Any, prefix: str = "") -> Iterator[tuple[str, list[Any]]]:
    """Pairs of dotted key and list; keys may be dotted or nested."""
    if isinstance(node, dict) and node:
        for key, value in node.items():
            yield from _lists(value, f"{prefix}.{key}" if prefix else str(key))
    elif not prefix or not isinstance(node, list) or not node or len({repr(value) for value in node}) < len(node):
        raise ConfigError(
            f"grid{'.' if prefix else ''}{prefix}={node!r}: a grid gives every key a list of different values: "
            "'grid={fusion.min_visible: [0.4, 0.5]}'; grid=null is none"
        )
    else:
        yield prefix, node


def _check_key(key: str, cfg: DictConfig) -> None:
    group, _, name = key.partition(".")
    if group not in ("fusion", "occlusion"):
        raise ConfigError(
            f"grid: {key} is not something that one pass can vary; {_allowed(cfg)}. "
            f"For {key}, make a run of each value: python -m panoptic_occ.train -m {key}=...,..."
        )
    if name not in cfg[group] or name.startswith("_"):
        raise ConfigError(f"grid: '{group}' has no key '{name}'; {did_you_mean(name, _names(cfg[group]))}")
    if group == "occlusion" and name not in _varied(cfg):
        raise ConfigError(
            f"grid: {key} is part of what occlusion={cfg.choices.occlusion} was trained with; {_allowed(cfg)}. "
            f"For {key}, train a run of each value: python -m panoptic_occ.train -m {key}=...,..."
        )


def _allowed(cfg: DictConfig) -> str:
    keys = [f"fusion.{name}" for name in _names(cfg.fusion)] + [f"occlusion.{name}" for name in sorted(_varied(cfg))]
    return f"allowed: {', '.join(keys)}"


def _varied(cfg: DictConfig) -> set[str]:
    """Settings of the occlusion method that a pass can vary.  Training reads ``sig_ratio`` too, but sweeps of it over
    one set of weights are what the papers' question about the fusion is."""
    return (set(_test_only(cfg)) | {"sig_ratio"}) & set(cfg.occlusion)


def _test_only(cfg: DictConfig) -> Iterable[str]:
    names: frozenset[str] = pkgutil.resolve_name(cfg.occlusion._target_).test_only
    return names


def _names(config: DictConfig) -> list[str]:
    return [str(name) for name in config if not str(name).startswith("_")]
