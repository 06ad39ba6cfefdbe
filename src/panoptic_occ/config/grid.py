"""A grid of fusion and order settings, evaluated in one pass over the same detections.

On the command line: ``'grid={fusion.min_visible: [0.4, 0.5, 0.6], occlusion.sig_ratio: [0.05, 0.1, 0.2]}'``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

from omegaconf import DictConfig, OmegaConf

from panoptic_occ.common.errors import ConfigError, did_you_mean
from panoptic_occ.common.kinds import Scope
from panoptic_occ.config.schema import table_of

Values = Mapping[str, Any]
"""Settings by dotted key."""


@dataclass(frozen=True, eq=False)
class Grid:
    """The values of a grid by dotted key; none at all without a grid."""

    values: Mapping[str, list[Any]]

    @classmethod
    def of(cls, config: DictConfig) -> Grid:
        """The grid of a configuration; ConfigError for a key that a grid cannot vary: what the network or its training
        depends on is no part of a pass."""
        values = grid_lists(config)
        if values:
            varied = _varied(config)
            for key in values:
                _check_key(key, config, varied)
        return cls(values)

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


def grid_lists(config: DictConfig) -> dict[str, list[Any]]:
    """The values of ``config.grid`` by dotted key; ConfigError when it is neither null nor lists by key."""
    grid = OmegaConf.to_container(config.grid, resolve=True) if OmegaConf.is_config(config.grid) else config.grid
    return {} if grid is None else dict(_lists(grid))


def inside(group: str, values: Values) -> dict[str, Any]:
    """The settings of ``values`` that belong to ``group``, as they are called within it."""
    return {key.removeprefix(f"{group}."): value for key, value in values.items() if key.startswith(f"{group}.")}


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


def _check_key(key: str, config: DictConfig, varied: list[str]) -> None:
    group, _, name = key.partition(".")
    allowed = f"allowed: {', '.join(varied)}"
    if group not in ("fusion", "occlusion"):
        raise ConfigError(
            f"grid: {key} is not something that one pass can vary; {allowed}. "
            f"For {key}, make a run of each value: python -m panoptic_occ.train -m {key}=...,..."
        )
    names = [str(key) for key in config[group] if not str(key).startswith("_")]
    if name not in names:
        raise ConfigError(f"grid: '{group}' has no key '{name}'; {did_you_mean(name, names)}")
    if key not in varied:
        raise ConfigError(
            f"grid: {key} is part of what occlusion={config.choices.occlusion} was trained with; {allowed}. "
            f"For {key}, train a run of each value: python -m panoptic_occ.train -m {key}=...,..."
        )


def _varied(config: DictConfig) -> list[str]:
    """Settings that a pass can vary: those of the result, and ``sig_ratio``, which training reads too, but sweeps of it
    over one set of weights are what the papers' question about the fusion is (``kinds.IN_GRID``)."""
    return sorted(
        key
        for key, setting in table_of(config).items()
        if key.startswith(("fusion.", "occlusion."))
        and not key.endswith("_")
        and (setting.scope is Scope.RESULT or setting.in_grid)
    )
