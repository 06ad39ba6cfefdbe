"""Makes a data set ready: checks it, computes and caches the ground-truth relations, and shows what they look like."""

from __future__ import annotations

import logging
from typing import get_args

from rich.console import Console

from panoptic_occ.common.errors import DataError
from panoptic_occ.common.terminal import printable
from panoptic_occ.data.coco.dataset import CocoPanoptic
from panoptic_occ.data.coco.doctor import check
from panoptic_occ.data.relations.build import ensure_relations
from panoptic_occ.data.relations.statistics import (
    OCFUSION_COCO_TRAIN_PAIRS,
    RelationStatistics,
    relation_statistics,
    statistics_table,
)
from panoptic_occ.data.source import Source, Split

log = logging.getLogger(__name__)


def prepare(
    source: Source,
    processes: int | None = 1,
    rebuild: bool = False,
    check_files: bool = False,
    console: Console | None = None,
) -> dict[str, tuple[RelationStatistics, ...]]:
    """Prepares both splits of ``source``, shows the statistics of their relations on ``console`` and returns them.

    ``rebuild`` ignores an existing cache.  ``check_files`` first reads every file of a split, images included, and
    raises DataError after listing everything that is wrong.
    """
    console = console or Console()
    source.prepare()
    statistics: dict[str, tuple[RelationStatistics, ...]] = {}
    for split in get_args(Split):
        dataset = source.split(split)
        if check_files:
            _check(dataset, processes, console)
        cache = ensure_relations(dataset, source.relations_path(dataset), processes, rebuild)
        statistics[split] = relation_statistics(cache)
        published = OCFUSION_COCO_TRAIN_PAIRS if (source.name, split) == ("coco", "train") else None
        title = f"{source.name} {split}: overlapping pairs of {len(dataset)} images"
        console.print(statistics_table(statistics[split], title, published))
    return statistics


def _check(dataset: CocoPanoptic, processes: int | None, console: Console) -> None:
    problems = sorted(check(dataset, processes), key=lambda problem: not problem.fatal)
    for problem in problems:
        severity = "error" if problem.fatal else "warning"
        console.print(printable(f"{severity}: {problem}"), markup=False, highlight=False, soft_wrap=True)
    fatal = sum(problem.fatal for problem in problems)
    log.info("%s: %d errors, %d warnings", dataset.layout.images, fatal, len(problems) - fatal)
    if fatal:
        raise DataError(f"{dataset.layout.images}: {fatal} errors, listed above; correct them and run again")
