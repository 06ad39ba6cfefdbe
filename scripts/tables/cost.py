"""What is still to be trained and evaluated for a table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from omegaconf import DictConfig

from panoptic_occ.runs.build import build_occlusion
from panoptic_occ.runs.folders import base_folder, occlusion_folder
from panoptic_occ.structures.categories import Categories
from scripts.tables.plan import PlannedRow

# Whether a module has parameters does not depend on what it tells apart.
ANY = Categories.from_json([{"id": 1, "name": "thing", "isthing": 1}, {"id": 2, "name": "stuff", "isthing": 0}])


@dataclass(frozen=True)
class Cost:
    """Bases and occlusion modules to train, and evaluations to make, of the seeds that were planned.

    ``pending``: rows that cannot run here.
    """

    bases: int
    heads: int
    evaluations: int
    pending: int


def cost(rows: Sequence[PlannedRow]) -> Cost:
    """What of ``rows`` is not there yet; work that rows share counts once."""
    runs = [run for planned in rows for run in planned.runs if run.done is None]
    bases = {base_folder(run.config).weights("base") for run in runs}
    heads = {occlusion_folder(run.config).weights("occlusion"): run.config for run in runs if not run.config.joint}
    return Cost(
        bases=_missing(bases),
        heads=_missing(file for file, config in heads.items() if trainable(config)),
        evaluations=len(runs),
        pending=sum(planned.pending is not None for planned in rows),
    )


def trainable(config: DictConfig) -> bool:
    """Whether the occlusion module of ``config`` has parameters; built without memory, and thrown away."""
    with torch.device("meta"):
        return build_occlusion(config, 8, ANY).trainable


def _missing(files: Iterable[Path]) -> int:
    return sum(not file.exists() for file in files)
