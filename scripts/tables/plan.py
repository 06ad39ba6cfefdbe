"""From a table to runs: the words of every row's command, its folders, and what of it is finished."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from panoptic_occ.common.errors import ConfigError
from panoptic_occ.common.files import read_json
from panoptic_occ.config.compose import compose, group_choices
from panoptic_occ.runs.build import run_folder
from panoptic_occ.runs.folders import (
    RunFolder,
    base_folder,
    finished,
    occlusion_folder,
    overrides_name,
    predictions_folder,
)
from panoptic_occ.runs.reuse import same_settings
from scripts.tables.tables import Row, Table, missing_backbone

SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class Setting:
    """What a table is run with: the words of the command beside its experiment, rows and seeds, and the seeds."""

    words: tuple[str, ...]
    seeds: tuple[int, ...]

    @classmethod
    def of(cls, table: Table, data: str, words: Sequence[str] = (), seeds: tuple[int, ...] | None = None) -> Setting:
        """``data`` chooses the preset of that name, else the data group.  Without ``seeds``: three on the scenes, one
        where every row trains a base of its own or the data are larger."""
        group = "preset" if data in group_choices()["preset"] else "data"
        chosen = () if data == "scenes" else (f"{group}={data}",)
        default = SEEDS if data == "scenes" and table.kind != "full" else SEEDS[:1]
        return cls((*chosen, *words), default if seeds is None else seeds)


@dataclass(frozen=True)
class Run:
    """One seed of a row: the run folder, what it must have been trained with, and where the row's results are."""

    seed: int
    config: DictConfig
    folder: RunFolder
    results: Path

    @property
    def done(self) -> dict[str, Any] | None:
        """The results; None while there are none, or when the folder was made with other settings."""
        if finished(self.folder) is None or not same_settings(self.folder.config, self.config):
            return None
        return read_json(self.results) if self.results.exists() else None

    def missing_weights(self) -> set[Path]:
        """Weight files of the base and of the occlusion module that are not there (yet)."""
        files = (base_folder(self.config).weights("base"), occlusion_folder(self.config).weights("occlusion"))
        return {file for file in files if not file.exists()}


@dataclass(frozen=True)
class PlannedRow:
    """A row with its command (train or evaluate), the command's words without seed or run, and its runs.

    ``pending``: why it cannot run here; there are no runs then.  ``detections``: for a row that only fuses, the run
    that it evaluates again; ``same_predictions``: with the predictions which that run stores.
    """

    row: Row
    command: str
    words: tuple[str, ...] = ()
    runs: tuple[Run, ...] = ()
    pending: str | None = None
    detections: PlannedRow | None = None
    same_predictions: bool = False


def plan(table: Table, setting: Setting) -> list[PlannedRow]:
    """Every row of ``table``, in its order; ConfigError when not even the table's own configuration composes."""
    common = [f"experiment={table.name}", *setting.words]
    config = compose(common)
    detections: dict[str, PlannedRow] = {}
    planned = []
    for row in table.rows:
        pending = missing_backbone(row, config)
        if pending:
            planned.append(PlannedRow(row, "train", pending=pending))
            continue
        shared = [*common, f"backbone={config.backbones[row.backbone]}"]
        try:
            if table.kind == "fusion":
                if row.backbone not in detections:
                    detections[row.backbone] = _detections(row.backbone, shared, setting.seeds)
                planned.append(_fused(row, shared, detections[row.backbone]))
            else:
                planned.append(_trained(row, [*shared, *row.overrides], setting.seeds))
        except ConfigError as error:
            planned.append(PlannedRow(row, "train", pending=str(error)))
    return planned


def waves(rows: Iterable[PlannedRow]) -> Iterator[list[PlannedRow]]:
    """Groups of rows that may run at the same time: no two of a group train the same base or module.

    Looks at the files anew before each group, so that work which the groups before it have done counts.
    """
    left = list(rows)
    while left:
        claimed: set[Path] = set()
        wave: list[PlannedRow] = []
        later: list[PlannedRow] = []
        for planned in left:
            needs = {file for run in planned.runs for file in run.missing_weights()}
            (later if needs & claimed else wave).append(planned)
            claimed |= needs
        yield wave
        left = later


def _trained(row: Row, words: Sequence[str], seeds: Sequence[int]) -> PlannedRow:
    words = _words(words)
    return PlannedRow(row, "train", words, tuple(_run(words, seed) for seed in seeds))


def _detections(backbone: str, words: Sequence[str], seeds: Sequence[int]) -> PlannedRow:
    row = Row("detections", backbone, "", "", None)
    return _trained(row, [*words, "save_predictions=true"], seeds)


def _fused(row: Row, words: Sequence[str], detections: PlannedRow) -> PlannedRow:
    words = _words([*words, *row.overrides])
    config = compose([*words, f"seed={detections.runs[0].seed}"])
    same = not config.oracle and predictions_folder(config) == predictions_folder(detections.runs[0].config)
    name = overrides_name(words) or "default"
    runs = tuple(
        Run(run.seed, run.config, run.folder, run.folder.path / "evaluations" / name / "metrics.json")
        for run in detections.runs
    )
    return PlannedRow(row, "evaluate", words, runs, detections=detections, same_predictions=same)


def _run(words: Sequence[str], seed: int) -> Run:
    command = [*words, f"seed={seed}"]
    config = compose(command)
    folder = run_folder(config, command)
    return Run(seed, config, folder, folder.metrics)


def _words(words: Iterable[str]) -> tuple[str, ...]:
    """Words as Hydra's sweeper writes them (0.10 becomes 0.1) and as folders are therefore named, the last of a key."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    found = {}
    for override in OverridesParser.create().parse_overrides(list(words)):
        key = override.get_key_element()
        found[key] = key if override.is_delete() else f"{key}={override.get_value_element_as_str()}"
    return tuple(found.values())
