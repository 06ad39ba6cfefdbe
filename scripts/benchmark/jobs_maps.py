"""Jobs on finished panoptic maps: panoptic quality, in memory and from official files."""

from __future__ import annotations

import importlib
import io
import json
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import torch
from PIL import Image
from torchmetrics.detection import PanopticQuality as TorchmetricsPanopticQuality

from panoptic_occ.common.files import write_json
from panoptic_occ.data.coco.panoptic_io import write_panoptic_png
from panoptic_occ.metrics.pq.core import IOU_UNIT, PQCounts
from panoptic_occ.metrics.pq.files import panoptic_quality_of_files
from panoptic_occ.metrics.pq.metric import panoptic_counts
from panoptic_occ.metrics.pq.scores import PQResult
from panoptic_occ.structures.panoptic_map import PanopticMap, Segment
from scripts.benchmark import reference
from scripts.benchmark.checks import same_counts
from scripts.benchmark.inputs import COCO_LIKE, LARGE, MapPair, Size, categories, map_pair
from scripts.benchmark.measure import Contest, Job, StandIn

CATEGORIES = categories()
DISTINCT, IMAGES = 8, 32
MANY_IMAGES = 768
"""For two processes: a worker takes 0.2 s to start, in which the first process works alone."""
LINEAR = 1.7
"""Two processes must be this much faster than one: 85 % of linear, start of the workers included."""
Files = tuple[Path, Path]
Counts = tuple[list[int], list[int], list[int], list[float]]


def jobs() -> list[Job]:
    """Panoptic quality of one image in memory, of a folder on one core, and of a larger one with two processes."""
    text = f"{IMAGES} images of {COCO_LIKE[0]}x{COCO_LIKE[1]}"
    about = "PQ of maps in memory"
    many = f"{MANY_IMAGES} images, 2 processes"
    return [
        Job("pq", about, "480x640, no VOID", partial(in_memory, COCO_LIKE, True)),
        Job("pq", about, "480x640, VOID and crowd", partial(in_memory, COCO_LIKE, False)),
        Job("pq", about, "800x1333, VOID and crowd", partial(in_memory, LARGE, False)),
        Job("pq_files", "PQ of official files, one core", text, partial(from_files, IMAGES)),
        Job("pq_processes", "PQ of official files", many, in_processes, cores=None, turns=2),
    ]


def in_memory(size: Size, plain: bool) -> Contest:
    """One image; torchmetrics agrees with the official evaluation where there is neither VOID nor crowd."""
    pair = map_pair(size, seed=1, plain=plain)
    stand_ins, absent = [], []
    if plain:
        stand_ins.append(_torchmetrics(pair))
    official = _panopticapi()
    if official is None:
        absent.append(("panopticapi, compute part", 3.0))
    else:
        run = partial(_official_in_memory, official, pair)
        stand_ins.append(StandIn("panopticapi, compute part", run, lambda a, b: same_counts(_ours(a), b), 3.0))
    dense = partial(reference.panoptic_counts, pair.prediction, pair.target, len(CATEGORIES))
    stand_ins.append(StandIn("per-segment dense reference", dense, lambda a, b: same_counts(_ours(a), b)))
    return Contest(lambda: panoptic_counts(pair.prediction, pair.target, len(CATEGORIES)), stand_ins, absent)


def _ours(counts: PQCounts) -> Counts:
    return counts.tp.tolist(), counts.fp.tolist(), counts.fn.tolist(), (counts.iou / IOU_UNIT).tolist()


def _torchmetrics(pair: MapPair) -> StandIn:
    """Its maps of (category, instance) are made before."""
    labels = range(len(CATEGORIES))
    things, stuff = set(labels[: CATEGORIES.num_things]), set(labels[CATEGORIES.num_things :])
    maps = [_category_and_instance(panoptic)[None] for panoptic in (pair.prediction, pair.target)]

    def run() -> Counts:
        metric = TorchmetricsPanopticQuality(things, stuff)
        metric.update(*maps)
        states = metric.true_positives, metric.false_positives, metric.false_negatives, metric.iou_sum
        tp, fp, fn, iou = (state.tolist() for state in states)
        return tp, fp, fn, iou

    return StandIn("torchmetrics PanopticQuality", run, lambda a, b: same_counts(_ours(a), b), 500.0)


def _category_and_instance(panoptic: PanopticMap) -> torch.Tensor:
    labels = torch.zeros_like(panoptic.ids)
    for segment in panoptic.segments:
        labels[panoptic.ids == segment.id] = segment.label
    return torch.stack([labels, panoptic.ids], dim=-1)


def _panopticapi() -> Any | None:
    try:
        return importlib.import_module("panopticapi.evaluation")
    except ImportError:
        return None


def _official_in_memory(official: Any, pair: MapPair) -> Counts:
    """What panopticapi does between reading the files and adding up."""
    maps = {"gt": pair.target.ids.numpy().astype(np.uint32), "pred": pair.prediction.ids.numpy().astype(np.uint32)}
    loaded = SimpleNamespace(open=lambda path: maps[Path(path).parent.name])
    with mock.patch.object(official, "Image", loaded), mock.patch.object(official, "rgb2id", lambda ids: ids):
        entries = [(_entry(0, pair.target), _entry(0, pair.prediction))]
        return _official_counts(official, entries, Path("gt"), Path("pred"))


def _official_counts(official: Any, entries: Sequence[Any], target: Path, prediction: Path) -> Counts:
    known = {entry["id"]: entry for entry in CATEGORIES.to_json()}
    with redirect_stdout(io.StringIO()):  # it prints
        stat = official.pq_compute_single_core(0, entries, str(target), str(prediction), known)
    found = [stat.pq_per_cat[category.id] for category in CATEGORIES.items]
    return [c.tp for c in found], [c.fp for c in found], [c.fn for c in found], [float(c.iou) for c in found]


def from_files(images: int) -> Contest:
    """The same PNGs several times under other image ids: what is read is the same."""
    (target, prediction), folder = _written(images)
    official = _panopticapi()
    stand_ins, absent = [], []
    if official is None:
        absent.append(("panopticapi", 1.8))
    else:
        run = partial(_official_files, official, target, prediction)
        stand_ins.append(StandIn("panopticapi", run, lambda a, b: same_counts(_of_result(a[0]), b), 1.8))
    dense = partial(_dense_files, target, prediction)
    name = "PIL decode + per-segment dense reference"
    stand_ins.append(StandIn(name, dense, lambda a, b: same_counts(_of_result(a[0]), b)))
    ours = partial(panoptic_quality_of_files, target, prediction, processes=1)
    return Contest(ours, stand_ins, absent, folder.cleanup)


def in_processes() -> Contest:
    """Two processes beside one, on all cores."""
    if len(os.sched_getaffinity(0)) < 2 if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1) < 2:
        return Contest(lambda: None, [], [("one process (this machine has one core)", LINEAR)])
    (target, prediction), folder = _written(MANY_IMAGES)
    one = partial(panoptic_quality_of_files, target, prediction, processes=1)
    two = partial(panoptic_quality_of_files, target, prediction, processes=2)
    check: Callable[[Any, Any], None] = lambda a, b: same_counts(_of_result(a[0]), _of_result(b[0]))  # noqa: E731
    return Contest(two, [StandIn("one process", one, check, LINEAR)], close=folder.cleanup)


def _of_result(result: PQResult) -> Counts:
    rows = result.per_class
    return [r.tp for r in rows], [r.fp for r in rows], [r.fn for r in rows], [r.sq * r.tp for r in rows]


def _written(images: int) -> tuple[Files, TemporaryDirectory[str]]:
    folder = TemporaryDirectory(prefix="panoptic_occ_bench_")
    pairs = [map_pair(COCO_LIKE, seed) for seed in range(DISTINCT)]
    files = []
    for part in ("target", "prediction"):
        maps: list[PanopticMap] = [getattr(pair, part) for pair in pairs]
        for k, panoptic in enumerate(maps):
            write_panoptic_png(Path(folder.name) / part / f"{k}.png", panoptic.ids.numpy())
        file = Path(folder.name) / f"{part}.json"
        entries = [_entry(k, maps[k % DISTINCT]) | {"file_name": f"{k % DISTINCT}.png"} for k in range(images)]
        write_json(file, {"annotations": entries, "categories": CATEGORIES.to_json()})
        files.append(file)
    return (files[0], files[1]), folder


def _entry(image_id: int, panoptic: PanopticMap) -> dict[str, Any]:
    segments = [
        {"id": s.id, "category_id": CATEGORIES[s.label].id, "area": s.area, "iscrowd": int(s.iscrowd)}
        for s in panoptic.segments
    ]
    return {"image_id": image_id, "file_name": "0.png", "segments_info": segments}


def _entries(target: Path, prediction: Path) -> list[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    truths, guesses = (json.loads(file.read_text())["annotations"] for file in (target, prediction))
    by_image = {guess["image_id"]: guess for guess in guesses}
    return [(truth, by_image[truth["image_id"]]) for truth in truths]


def _official_files(official: Any, target: Path, prediction: Path) -> Counts:
    entries = _entries(target, prediction)
    return _official_counts(official, entries, target.with_suffix(""), prediction.with_suffix(""))


def _dense_files(target: Path, prediction: Path) -> Counts:
    total = np.zeros((4, len(CATEGORIES)))
    for truth, guess in _entries(target, prediction):
        maps = [
            _read(file.with_suffix("") / entry["file_name"], entry)
            for file, entry in ((prediction, guess), (target, truth))
        ]
        total += np.array(reference.panoptic_counts(maps[0], maps[1], len(CATEGORIES)))
    tp, fp, fn = (row.astype(int).tolist() for row in total[:3])
    return tp, fp, fn, total[3].tolist()


def _read(png: Path, entry: Mapping[str, Any]) -> PanopticMap:
    rgb = np.array(Image.open(png), dtype=np.uint32)
    ids = torch.from_numpy((rgb[..., 0] + 256 * rgb[..., 1] + 65536 * rgb[..., 2]).astype(np.int32))
    segments = []
    for info in entry["segments_info"]:
        label = CATEGORIES.label_of(info["category_id"])
        segments.append(Segment(info["id"], label, CATEGORIES[label].isthing, info["area"], info["iscrowd"] == 1))
    return PanopticMap(ids, tuple(segments))
