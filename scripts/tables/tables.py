"""The tables as experiments: ``conf/experiment/<paper>/<table>.yaml`` has a block ``table`` with the rows."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from panoptic_occ.common.errors import ConfigError, did_you_mean
from scripts.suite import conf_dir

# What the rows of a table differ in: how one run is fused, the occlusion module, or the base.
KINDS = {"fusion": "fusion only", "head": "head training", "full": "full training"}


@dataclass(frozen=True)
class Row:
    """A row: the words that make it on top of the table's experiment, and where the paper prints it (``backbone``,
    ``table``, and the name ``published``).  ``base``: the row that its gains are measured against."""

    name: str
    backbone: str
    table: str
    published: str
    base: str | None
    overrides: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """The row's name and backbone as a file name."""
        return re.sub(r"[^A-Za-z0-9.]+", "-", f"{self.name} {self.backbone}").strip("-")


@dataclass(frozen=True)
class Table:
    """A table of a paper: columns of ``metrics`` (keys of metrics.json).  ``also``: further tables with its rows."""

    name: str
    paper: str
    table: str
    title: str
    kind: str
    metrics: tuple[str, ...]
    rows: tuple[Row, ...]
    also: tuple[str, ...] = ()

    @property
    def stem(self) -> str:
        """The name as that of a file without its ending."""
        return self.name.replace("/", "_")

    def base_of(self, row: Row) -> Row | None:
        """The row that the gains of ``row`` are measured against; None for the base itself."""
        bases = (other for other in self.rows if (other.name, other.backbone) == (row.base, row.backbone))
        return next((base for base in bases if base is not row), None)


def names() -> list[str]:
    """The names of all tables, as in ``experiment=<name>``."""
    root = conf_dir() / "experiment"
    files = [file for file in sorted(root.rglob("*.yaml")) if _block(file) is not None]
    return [file.relative_to(root).with_suffix("").as_posix() for file in files]


def load(name: str) -> Table:
    """The table of ``experiment=<name>``; ConfigError when there is none of that name, or its rows are not unique."""
    file = conf_dir() / "experiment" / f"{name}.yaml"
    block = _block(file) if file.is_file() else None
    if block is None:
        raise ConfigError(f"there is no table '{name}'; {did_you_mean(name, names())}")
    return parse(name, block)


def parse(name: str, block: DictConfig) -> Table:
    """The table that a block ``table`` of an experiment describes."""
    if block.kind not in KINDS:
        raise ConfigError(f"{name}: kind={block.kind}; {did_you_mean(block.kind, KINDS)}")
    rows = tuple(
        Row(row.name, row.get("backbone", block.backbone), str(row.get("table", block.table)),
            row.get("published", row.name), row.get("base", block.base), tuple(row.get("overrides", ())))
        for row in block.rows
    )  # fmt: skip
    if len({row.key for row in rows}) < len(rows):
        raise ConfigError(f"{name}: two rows have the same name and backbone; give one of them another name")
    also = tuple(map(str, block.get("also", ())))
    return Table(name, block.paper, str(block.table), block.title, block.kind, tuple(block.metrics), rows, also)


def _block(file: Path) -> DictConfig | None:
    block = OmegaConf.select(OmegaConf.load(file), "table")
    assert block is None or isinstance(block, DictConfig)
    return block
