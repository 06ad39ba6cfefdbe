"""Jobs on finished panoptic maps: panoptic quality, in memory and from official files."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from PIL import Image
from torchmetrics.detection import PanopticQuality as TorchmetricsPanopticQuality

from panoptic_occ.common.files import write_json
from panoptic_occ.common.parallel import available_cores
from panoptic_occ.data.coco.panoptic_io import write_panoptic_png
from panoptic_occ.metrics.pq.core import IOU_UNIT, PQCounts
from panoptic_occ.metrics.pq.files import panoptic_quality_of_files
from panoptic_occ.metrics.pq.metric import panoptic_counts
from panoptic_occ.metrics.pq.scores import PQResult
from panoptic_occ.structures.panoptic_map import PanopticMap
from scripts.benchmark import reference
from scripts.benchmark.checks import same_counts
from scripts.benchmark.inputs import COCO_LIKE, LARGE, Size, categories, map_pair, panoptic_entry
from scripts.benchmark.measure import Contest, Job, StandIn

CATEGORIES = categories()
DISTINCT, IMAGES = 8, 32
MANY_IMAGES = 768  # for two processes: a worker takes 0.2 s to start, in which the first process works alone
LINEAR = 1.7  # two processes must be this much faster than one: 85 % of linear, start of the workers included
PARTS = ("target", "prediction")
Counts = Sequence[Sequence[float]]


def jobs() -> list[Job]:
    """Panoptic quality of one image in memory, of a folder on one core, and of a larger one with two processes."""
    files, many, memory = f"{IMAGES} images of 480x640", f"{MANY_IMAGES} images, 2 processes", "PQ of maps in memory"
    return [
        Job("pq", memory, "480x640, no VOID", partial(in_memory, COCO_LIKE, True)),
        Job("pq", memory, "480x640, VOID and crowd", partial(in_memory, COCO_LIKE, False)),
        Job("pq", memory, "800x1333, VOID and crowd", partial(in_memory, LARGE, False)),
        Job("pq_files", "PQ of official files, one core", files, from_files),
        Job("pq_processes", "PQ of official files", many, in_processes, cores=None, turns=2),
    ]


def in_memory(size: Size, plain: bool) -> Contest:
    """One image; torchmetrics agrees with the official evaluation where there is neither VOID nor crowd."""
    target, prediction = map_pair(size, seed=1, plain=plain)
    maps = prediction, target, len(CATEGORIES)
    labels = range(len(CATEGORIES))
    things, stuff = set(labels[: CATEGORIES.num_things]), set(labels[CATEGORIES.num_things :])
    pair = [_category_and_instance(panoptic)[None] for panoptic in (prediction, target)]

    def torchmetrics() -> Counts:
        metric = TorchmetricsPanopticQuality(things, stuff)
        metric.update(*pair)
        states = metric.true_positives, metric.false_positives, metric.false_negatives, metric.iou_sum
        return [state.tolist() for state in states]

    def check(ours: PQCounts, theirs: Counts) -> None:
        same_counts((ours.tp, ours.fp, ours.fn, ours.iou / IOU_UNIT), theirs)

    public = [StandIn("torchmetrics PanopticQuality", torchmetrics, check, 500.0)] if plain else []
    dense = StandIn("per-segment dense reference", partial(reference.panoptic_counts, *maps), check)
    return Contest(partial(panoptic_counts, *maps), [*public, dense])


def _category_and_instance(panoptic: PanopticMap) -> torch.Tensor:
    labels = torch.zeros_like(panoptic.ids)
    for segment in panoptic.segments:
        labels[panoptic.ids == segment.id] = segment.label
    return torch.stack([labels, panoptic.ids], dim=-1)


class Files:
    """``images`` predictions and targets in the official format, made of a few maps: what is read is the same."""

    def __init__(self, images: int) -> None:
        self.folder = TemporaryDirectory(prefix="panoptic_occ_bench_")
        self.root = Path(self.folder.name)
        self.maps = [map_pair(COCO_LIKE, seed) for seed in range(DISTINCT)]
        self.entries = [
            tuple(panoptic_entry(k, panoptic, f"{k % DISTINCT}.png") for panoptic in self.maps[k % DISTINCT])
            for k in range(images)
        ]
        for k, part in enumerate(PARTS):
            for number, maps in enumerate(self.maps):
                write_panoptic_png(self.root / part / f"{number}.png", maps[k].ids.numpy())
            annotations = [entry[k] for entry in self.entries]
            write_json(self.root / f"{part}.json", {"annotations": annotations, "categories": CATEGORIES.to_json()})

    def quality(self, processes: int) -> Callable[[], Counts]:
        """Our evaluation, to be called."""
        target, prediction = (self.root / f"{part}.json" for part in PARTS)
        return lambda: _of_result(panoptic_quality_of_files(target, prediction, processes=processes)[0])

    def dense(self) -> Counts:
        """PIL reads the maps, the dense reference counts."""
        total = np.zeros((4, len(CATEGORIES)))
        for k in range(len(self.entries)):
            target, prediction = (
                PanopticMap(_decoded(self.root / part / f"{k % DISTINCT}.png"), panoptic.segments)
                for part, panoptic in zip(PARTS, self.maps[k % DISTINCT], strict=True)
            )
            total += np.array(reference.panoptic_counts(prediction, target, len(CATEGORIES)))
        return [row.tolist() for row in total]

    def official(self) -> Callable[[], Counts] | None:
        """The official evaluation, to be called; None where it is not installed."""
        if find_spec("panopticapi") is None:
            return None
        evaluation = import_module("panopticapi.evaluation")
        folders = [str(self.root / part) for part in PARTS]
        by_id = {entry["id"]: entry for entry in CATEGORIES.to_json()}

        def run() -> Counts:
            with redirect_stdout(io.StringIO()):  # it prints
                stat = evaluation.pq_compute_single_core(0, self.entries, *folders, by_id)
            counts = [stat.pq_per_cat[category.id] for category in CATEGORIES.items]
            return [c.tp for c in counts], [c.fp for c in counts], [c.fn for c in counts], [c.iou for c in counts]

        return run


def _decoded(png: Path) -> torch.Tensor:
    rgb = np.array(Image.open(png), dtype=np.uint32)
    return torch.from_numpy((rgb[..., 0] + 256 * rgb[..., 1] + 65536 * rgb[..., 2]).astype(np.int32))


def from_files() -> Contest:
    """One process reads the files and counts."""
    files = Files(IMAGES)
    dense = StandIn("PIL decode + per-segment dense reference", files.dense, same_counts)
    official = StandIn("panopticapi", files.official(), same_counts, 1.8)
    return Contest(files.quality(1), [dense, official], files.folder.cleanup)


def in_processes() -> Contest:
    """Two processes beside one, on all cores."""
    if available_cores() < 2:
        return Contest(lambda: None, [StandIn("one process (this machine has one core)", None, same_counts, LINEAR)])
    files = Files(MANY_IMAGES)
    one = StandIn("one process", files.quality(1), same_counts, LINEAR)
    return Contest(files.quality(2), [one], files.folder.cleanup)


def _of_result(result: PQResult) -> Counts:
    rows = result.per_class
    return [r.tp for r in rows], [r.fp for r in rows], [r.fn for r in rows], [r.sq * r.tp for r in rows]
