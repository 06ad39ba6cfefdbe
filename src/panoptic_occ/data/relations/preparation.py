"""Makes a data set ready: checks it, computes and caches the ground-truth relations, and shows what they look like."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import get_args

from rich.console import Console

from panoptic_occ.common.errors import DataError
from panoptic_occ.common.terminal import printable
from panoptic_occ.data.coco.contradictions import differing_categories
from panoptic_occ.data.coco.dataset import CocoPanoptic
from panoptic_occ.data.coco.doctor import check
from panoptic_occ.data.coco.doctor_report import check_report, lines_of, write_report
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
    report: Path | None = None,
    console: Console | None = None,
) -> dict[str, tuple[RelationStatistics, ...]]:
    """Prepares both splits of ``source``, shows the statistics of their relations on ``console`` and returns them.

    ``rebuild`` ignores an existing cache.  ``check_files`` first reads every file, images included, and raises
    DataError after listing everything that is wrong, also in the file ``report``.  A split of panoptic annotations
    alone has no relations.
    """
    console = console or Console()
    if report is not None:
        check_report(report)
    source.prepare()
    splits = {split: source.split(split) for split in get_args(Split)}
    if check_files or report is not None:
        _check(splits, processes, report, console)
    statistics: dict[str, tuple[RelationStatistics, ...]] = {}
    for split, dataset in splits.items():
        if not dataset.has_instances:
            log.info(
                "%s: panoptic annotations alone, without overlapping masks: no order to learn", dataset.layout.images
            )
            continue
        cache = ensure_relations(dataset, source.relations_path(dataset), processes, rebuild)
        statistics[split] = relation_statistics(cache)
        published = OCFUSION_COCO_TRAIN_PAIRS if (source.name, split) == ("coco", "train") else None
        title = f"{source.name} {split}: overlapping pairs of {len(dataset)} images"
        console.print(statistics_table(statistics[split], title, published))
    return statistics


def _check(splits: Mapping[Split, CocoPanoptic], processes: int | None, report: Path | None, console: Console) -> None:
    """Lists the problems of both splits, which may be one and the same; DataError for those that are errors."""
    train, val = splits["train"], splits["val"]
    problems = []
    for dataset in {dataset.layout: dataset for dataset in splits.values()}.values():
        of_split = check(dataset, processes)
        fatal = sum(problem.fatal for problem in of_split)
        log.info("%s: %d errors, %d warnings", dataset.layout.images, fatal, len(of_split) - fatal)
        problems += of_split
    files = val.layout.panoptic_json, train.layout.panoptic_json
    problems += differing_categories(train.categories, val.categories, *files)
    for line in lines_of(problems):
        console.print(printable(line), markup=False, highlight=False, soft_wrap=True)
    if report is not None:
        write_report(report, problems)
    if fatal := sum(problem.fatal for problem in problems):
        place = f"listed above{f' and in {report}' if report else ''}"
        raise DataError(f"{val.layout.panoptic_json.parent}: {fatal} errors, {place}; correct them and run again")
