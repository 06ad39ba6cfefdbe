"""From a table to runs (the words of every row's command, what of it is finished), and from runs to its results."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from panoptic_occ.common.errors import ConfigError
from panoptic_occ.common.files import read_json, write_json
from scripts.suite import Run, compose, group_choices, result_words, swept
from scripts.tables.tables import Row, Table

SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class Setting:
    """What a table is run with: words beside its experiment and rows, and the seeds."""

    words: tuple[str, ...]
    seeds: tuple[int, ...]

    @classmethod
    def of(cls, table: Table, data: str, words: Sequence[str] = (), seeds: tuple[int, ...] | None = None) -> Setting:
        """``data``: a preset or a choice of the data group.  Without ``seeds``: three on the scenes, one where every
        row trains a base of its own or the data are larger."""
        group = "preset" if data in group_choices()["preset"] else "data"
        choice = () if data == "scenes" else (f"{group}={data}",)
        default = SEEDS if data == "scenes" and table.kind != "full" else SEEDS[:1]
        return cls((*choice, *words), default if seeds is None else seeds)


@dataclass(frozen=True)
class PlannedRow:
    """A row with its command, the command's words without seed or run, and a run for every seed.  ``pending``: why
    there are none.  ``detections``: the row whose runs a row that only fuses evaluates again; ``same_predictions``:
    with the predictions which these store."""

    row: Row
    command: str
    words: tuple[str, ...] = ()
    runs: tuple[Run, ...] = ()
    pending: str | None = None
    detections: PlannedRow | None = None
    same_predictions: bool = False

    @property
    def missing(self) -> list[Run]:
        """The runs without results."""
        return [run for run in self.runs if run.results is None]


def plan(table: Table, setting: Setting) -> list[PlannedRow]:
    """Every row of ``table``, in its order; ConfigError when not even the table's own configuration composes."""
    common = [f"experiment={table.name}", *setting.words]
    backbones = compose(common).backbones
    detections: dict[str, PlannedRow] = {}
    rows = []
    for row in table.rows:
        if row.backbone not in backbones:
            rows.append(PlannedRow(row, "train", pending=f"nothing stands for {row.backbone} on this data"))
            continue
        words = [*common, f"backbone={backbones[row.backbone]}"]
        try:
            if table.kind == "fusion":
                if row.backbone not in detections:
                    unnamed = Row("detections", row.backbone, "", "", None)
                    detections[row.backbone] = _trained(unnamed, [*words, "save_predictions=true"], setting.seeds)
                rows.append(_fused(row, words, detections[row.backbone]))
            else:
                rows.append(_trained(row, [*words, *row.overrides], setting.seeds))
        except ConfigError as error:
            rows.append(PlannedRow(row, "train", pending=str(error)))
    return rows


def waves(rows: Iterable[PlannedRow]) -> Iterator[list[PlannedRow]]:
    """Groups of rows that may run at the same time: no two of a group train the same base or module.  Looks at the
    files anew before each group, so that work which the groups before it have done counts."""
    left = list(rows)
    while left:
        claims: set[Path] = set()
        wave: list[PlannedRow] = []
        later: list[PlannedRow] = []
        for planned in left:
            needs = {file for run in planned.runs for file in (run.base, run.module) if not file.exists()}
            (later if needs & claims else wave).append(planned)
            claims |= needs
        yield wave
        left = later


def _trained(row: Row, words: Sequence[str], seeds: Sequence[int]) -> PlannedRow:
    words = swept(words)
    return PlannedRow(row, "train", words, tuple(Run.of([*words, f"seed={seed}"]) for seed in seeds))


def _fused(row: Row, words: Sequence[str], detections: PlannedRow) -> PlannedRow:
    words, first = swept([*words, *row.overrides]), detections.runs[0]
    alone = Run.of([*words, f"seed={first.config.seed}"])
    same = not alone.config.oracle and alone.predictions == first.predictions
    runs = tuple(run.evaluation(words) for run in detections.runs)
    return PlannedRow(row, "evaluate", words, runs, detections=detections, same_predictions=same)


@dataclass(frozen=True)
class RowResults:
    """Every number of a row by seed, as fractions like in metrics.json.  ``stands_for``: the backbone used for the
    paper's.  ``words``, ``minutes``: of its commands.  ``problem``: why seeds are missing."""

    name: str
    backbone: str
    stands_for: str | None
    words: tuple[str, ...]
    seeds: Mapping[int, Mapping[str, float | None]]
    problem: str | None = None
    minutes: float | None = None


@dataclass(frozen=True)
class TableResults:
    """The rows of a table, and with which data, schedule, seeds and machine they were made."""

    table: str
    data: str
    schedule: str
    seeds: tuple[int, ...]
    images: int | None
    environment: Mapping[str, Any] | None
    rows: tuple[RowResults, ...]

    def row(self, row: Row) -> RowResults | None:
        """The results of a row of the table."""
        return next((each for each in self.rows if (each.name, each.backbone) == (row.name, row.backbone)), None)

    def write(self, file: Path) -> None:
        """Writes everything as JSON."""
        write_json(file, asdict(self), indent=1)

    @classmethod
    def read(cls, file: Path) -> TableResults:
        """What ``write`` wrote."""
        content = read_json(file)
        rows = tuple(
            RowResults(**{**row, "words": tuple(row["words"]), "seeds": {int(s): v for s, v in row["seeds"].items()}})
            for row in content["rows"]
        )
        return cls(**{**content, "seeds": tuple(content["seeds"]), "rows": rows})


def collect(
    table: Table, setting: Setting, rows: Sequence[PlannedRow], problems: Mapping[str, str], times: Mapping[str, float]
) -> TableResults:
    """The results of the finished runs of ``rows``; ``problems``, ``times`` (minutes): by key of the row."""
    config = compose([f"experiment={table.name}", *setting.words])
    images, environment, collected = None, None, []
    for planned in rows:
        seeds = {}
        for run in planned.runs:
            if (results := run.results) is not None:
                seeds[run.config.seed] = results["relations"][results["method"]]
                images = images or results["images"]
                environment = environment or read_json(run.folder / "environment.json")
        row, words = planned.row, result_words(planned.words)
        problem, stands_for = planned.pending or problems.get(row.key), config.backbones.get(row.backbone)
        collected.append(RowResults(row.name, row.backbone, stands_for, words, seeds, problem, times.get(row.key)))
    data, schedule = str(config.data.name), str(config.choices.schedule)
    return TableResults(table.name, data, schedule, setting.seeds, images, environment, tuple(collected))
