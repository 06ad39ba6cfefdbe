"""The tables as experiments: ``conf/experiment/<paper>/<table>.yaml`` has a block ``table`` with the rows."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from omegaconf import DictConfig, OmegaConf

from panoptic_occ.common.errors import ConfigError, did_you_mean
from panoptic_occ.config.files import conf_dir

Kind = Literal["fusion", "head", "full"]
KINDS: dict[str, str] = {
    "fusion": "fusion only",
    "head": "head training",
    "full": "full training",
}
"""What the rows of a table differ in: how one run is fused, the occlusion module, or the base."""


@dataclass(frozen=True)
class Row:
    """A row: the words that make it on top of the table's experiment, and where the paper prints it.

    ``backbone``: as in the paper; the configuration's ``backbones`` says what stands for it.  ``base``: the name of the
    row with the same backbone that gains are measured against.  ``published``, ``table``: the row's name and the table
    in published.csv.
    """

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
    """A table of a paper.

    ``also``: further tables that print some of the rows, for other data or with other numbers.  ``metrics``: keys of
    metrics.json, in the order of the columns.
    """

    name: str
    paper: str
    table: str
    title: str
    kind: Kind
    metrics: tuple[str, ...]
    rows: tuple[Row, ...]
    also: tuple[str, ...] = ()

    def base_of(self, row: Row) -> Row | None:
        """The row that the gains of ``row`` are measured against; None for the base itself."""
        found = (other for other in self.rows if (other.name, other.backbone) == (row.base, row.backbone))
        return next((other for other in found if other is not row), None)


def names() -> list[str]:
    """The names of all tables, as in ``experiment=<name>``."""
    root = conf_dir() / "experiment"
    return [_name(root, file) for file in sorted(root.rglob("*.yaml")) if _block(file) is not None]


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
        Row(
            name=row.name,
            backbone=row.get("backbone", block.backbone),
            table=str(row.get("table", block.table)),
            published=row.get("published", row.name),
            base=row.get("base", block.base),
            overrides=tuple(row.get("overrides", ())),
        )
        for row in block.rows
    )
    if len({row.key for row in rows}) < len(rows):
        raise ConfigError(f"{name}: two rows have the same name and backbone; give one of them another name")
    also = tuple(str(table) for table in block.get("also", ()))
    return Table(name, block.paper, str(block.table), block.title, block.kind, tuple(block.metrics), rows, also)


def missing_backbone(row: Row, config: DictConfig) -> str | None:
    """Why ``row`` cannot run with ``config``; None when it can."""
    return None if row.backbone in config.backbones else f"nothing stands for {row.backbone} on this data"


def _name(root: Path, file: Path) -> str:
    return file.relative_to(root).with_suffix("").as_posix()


def _block(file: Path) -> DictConfig | None:
    block = OmegaConf.select(OmegaConf.load(file), "table")
    assert block is None or isinstance(block, DictConfig)
    return block
