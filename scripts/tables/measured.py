"""What the runs of a table measured, as it is kept in ``results/tables``: every rendering is made from this."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from panoptic_occ.common.files import read_json, write_json
from panoptic_occ.config.compose import compose
from panoptic_occ.runs.folders import NOT_IN_NAME
from scripts.tables.plan import PlannedRow, Setting
from scripts.tables.tables import Table


@dataclass(frozen=True)
class MeasuredRow:
    """Every number of a row by seed, as fractions like in metrics.json.

    ``stands_for``: the backbone used for the paper's.  ``words``: of its command.  ``problem``: why seeds are missing.
    ``minutes``: wall time of the commands that made it, as far as it is known.
    """

    name: str
    backbone: str
    stands_for: str | None
    words: tuple[str, ...]
    seeds: Mapping[int, Mapping[str, float | None]]
    problem: str | None = None
    minutes: float | None = None


@dataclass(frozen=True)
class Measured:
    """The rows of a table, and with which data, schedule, seeds and machine they were made."""

    table: str
    data: str
    schedule: str
    seeds: tuple[int, ...]
    images: int | None
    environment: Mapping[str, Any] | None
    rows: tuple[MeasuredRow, ...]

    def row(self, name: str, backbone: str) -> MeasuredRow | None:
        """The row of that name and backbone."""
        return next((row for row in self.rows if (row.name, row.backbone) == (name, backbone)), None)

    def write(self, file: Path) -> None:
        """Writes everything as JSON."""
        write_json(file, asdict(self), indent=1)

    @classmethod
    def read(cls, file: Path) -> Measured:
        """What ``write`` wrote."""
        found = read_json(file)
        rows = tuple(
            MeasuredRow(**{**row, "words": tuple(row["words"]), "seeds": {int(s): v for s, v in row["seeds"].items()}})
            for row in found["rows"]
        )
        return cls(**{**found, "seeds": tuple(found["seeds"]), "rows": rows})


def own_words(planned: PlannedRow) -> tuple[str, ...]:
    """The words of a row's command that matter to its numbers: no folders, no machine."""
    return tuple(w for w in planned.words if not NOT_IN_NAME.match(w.partition("=")[0]) or w.startswith("method="))


def gather(
    table: Table,
    setting: Setting,
    rows: Sequence[PlannedRow],
    problems: Mapping[str, str] | None = None,
    minutes: Mapping[str, float] | None = None,
) -> Measured:
    """What the finished runs of ``rows`` measured; ``problems`` and ``minutes`` by the key of the row."""
    config = compose([f"experiment={table.name}", *setting.words])
    images, environment, measured = None, None, []
    for planned in rows:
        seeds = {}
        for run in planned.runs:
            results = run.done
            if results is None:
                continue
            seeds[run.seed] = results["relations"][results["method"]]
            images = images or results["images"]
            environment = environment or read_json(run.folder.path / "environment.json")
        row = planned.row
        problem = planned.pending or (problems or {}).get(row.key)
        stands_for = config.backbones.get(row.backbone)
        time = (minutes or {}).get(row.key)
        measured.append(MeasuredRow(row.name, row.backbone, stands_for, own_words(planned), seeds, problem, time))
    data, schedule = str(config.data.name), str(config.choices.schedule)
    return Measured(table.name, data, schedule, setting.seeds, images, environment, tuple(measured))
