"""The suite on a GPU: training throughput, inference by stage, the relation steps beside RAP's Table 5, fusion and PQ.

Statistics, maps and counts of the GPU must equal those of the CPU.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from rich.console import Console

from panoptic_occ.common.errors import ConfigError
from panoptic_occ.common.files import write_json, write_text
from panoptic_occ.fusion.engine import fuse
from panoptic_occ.metrics.pq.metric import panoptic_counts
from panoptic_occ.occlusion.base import OcclusionModel
from panoptic_occ.occlusion.baselines.area import AreaOrder
from panoptic_occ.occlusion.ocfusion import OCFusion
from panoptic_occ.occlusion.rap import RAP
from panoptic_occ.occlusion.refine import SoftOcclusion
from panoptic_occ.runs.environment import environment
from panoptic_occ.structures.instances import InstanceSet
from panoptic_occ.structures.masks import PairStats
from panoptic_occ.structures.panoptic_map import PanopticMap
from panoptic_occ.structures.relation import Relation
from panoptic_occ.stuff.base import semantic_map, upsample
from scripts.benchmark.checks import equal, expect
from scripts.benchmark.gpu_networks import PRECISIONS, Row, Scale, autocast, inference, median_ms, training
from scripts.benchmark.growth import POLICY, SIG_RATIO, markdown_table, scene
from scripts.benchmark.inputs import NUM_THINGS, categories, map_pair, semantic_logits
from scripts.benchmark.stages import FUSION, PAIRS
from scripts.tables.published import Published

METHODS: dict[str, type[OcclusionModel]] = {"OCFusion": OCFusion, "RAP": RAP, "REFINE": SoftOcclusion}
NEEDS_GPU = (
    "python -m scripts.benchmark --gpu needs a CUDA device and torch sees none; run it on a machine with one "
    "(nvidia-smi shows it) and a build of torch for it, or use --growth and --profile, which run on the CPU"
)


QUICK = Scale(
    ("preset=tiny", "method=ocfusion"), size=(96, 128), batch=2, channels=16, counts=(5,), repeats=1, warm_up=0
)


def run(out: Path, quick: bool = False) -> None:
    """Writes gpu.json and gpu.md into ``out``, anew after every part, so that nothing is lost when a later one fails.

    ``quick``: small, to see that it works.  Raises ConfigError without a GPU, and MismatchError where a result differs
    from that of the CPU.
    """
    if not torch.cuda.is_available():
        raise ConfigError(NEEDS_GPU)
    scale, rows = QUICK if quick else Scale(), list[Row]()
    for part in PARTS:
        rows += part(scale, torch.device("cuda"))
        about = {"environment": environment(), "scale": asdict(scale), "rows": [asdict(row) for row in rows]}
        write_json(out / "gpu.json", about, indent=1)
        write_text(out / "gpu.md", markdown(rows, torch.cuda.get_device_name(), scale))
    Console().print(f"Written to {out / 'gpu.json'} and {out / 'gpu.md'}", soft_wrap=True, markup=False)


@torch.no_grad()
def relations(scale: Scale, device: torch.device) -> list[Row]:
    """The relation steps of the methods in RAP's Table 5 and of REFINE, and what that table prints."""
    torch.manual_seed(0)
    rows = []
    for name, method in METHODS.items():
        model = method(in_channels=scale.channels, categories=categories()).eval().to(device)
        for precision, count in itertools.product(PRECISIONS, scale.counts):
            instances = scene(count, scale.size, scale.channels)
            stats = PairStats.of(instances.masks)
            pairs = int(stats.significant(SIG_RATIO).sum()) // 2
            ms = median_ms(partial(relate, model, instances.to(device), moved(stats, device), precision), scale)
            rows.append(Row("relation", name, ms, precision, count, pairs=pairs))
    published = Published.read()
    for row in ("OCFusion*", "RAP"):
        printed = published.number("rap", "5", row, "R101", "relation_ms")
        assert printed is not None
        rows.append(Row("relation", f"{row}, published: Table 5 of RAP, NVIDIA P40", printed))
    return rows


def relate(model: OcclusionModel, instances: InstanceSet, stats: PairStats, precision: str) -> Relation:
    """A relation step at a precision."""
    with autocast(stats.inter.device, precision):
        relation: Relation = model(instances, stats)
    return relation


@torch.no_grad()
def fusions(scale: Scale, device: torch.device) -> list[Row]:
    """Pair statistics, fusion and PQ of tensors on ``device``; MismatchError unless the CPU gives the same."""
    height, width = scale.size
    logits = upsample(semantic_logits(scale.size)[None])[0, :, :height, :width]
    labels = semantic_map(logits, NUM_THINGS - 1, NUM_THINGS).labels
    rows = []
    for count in scale.counts:
        here = scene(count, scale.size, channels=1)
        stats = PairStats.of(here.masks)
        relation = AreaOrder(in_channels=0, categories=categories())(here, stats)
        there = here.to(device)
        count_pairs = partial(PairStats.of, there.masks)
        merge = partial(fuse, there, moved(stats, device), shown(relation, device), labels.to(device), POLICY)
        same_stats(count_pairs(), stats)
        same_maps(merge(), fuse(here, stats, relation, labels, POLICY))
        rows.append(Row("fusion", PAIRS, median_ms(count_pairs, scale), instances=count))
        rows.append(Row("fusion", FUSION, median_ms(merge, scale), instances=count))
    return [*rows, panoptic_quality(scale, device)]


PARTS = (fusions, relations, inference, training)
"""What is compared with the CPU comes first: there is no use in timing wrong results."""


def panoptic_quality(scale: Scale, device: torch.device) -> Row:
    """Counting the matches of one image."""
    pair, classes = map_pair(scale.size), len(categories())
    prediction, target = (replace(one, ids=one.ids.to(device)) for one in (pair.prediction, pair.target))
    match = partial(panoptic_counts, prediction, target, classes)
    found, wanted = match(), panoptic_counts(pair.prediction, pair.target, classes)
    for name in ("tp", "fp", "fn", "iou"):
        same = np.array_equal(getattr(found, name), getattr(wanted, name))
        expect(same, f"PQ: {name} differs from the CPU's")
    return Row("fusion", "PQ", median_ms(match, scale))


def same_stats(found: PairStats, wanted: PairStats) -> None:
    """MismatchError unless all counts are equal."""
    equal(found.area.cpu(), wanted.area, "areas")
    equal(found.inter.cpu(), wanted.inter, "intersections")


def same_maps(found: PanopticMap, wanted: PanopticMap) -> None:
    """MismatchError unless pixels, segments and records are equal."""
    equal(found.ids.cpu(), wanted.ids, "panoptic map")
    expect(found.segments == wanted.segments, "the segments differ from the CPU's")
    expect(found.records == wanted.records, "the records of the fusion differ from the CPU's")


def moved(stats: PairStats, device: torch.device) -> PairStats:
    """The counts on ``device``."""
    return PairStats(stats.area.to(device), stats.inter.to(device))


def shown(relation: Relation, device: torch.device) -> Relation:
    """What the fusion reads of a relation without claims, on ``device``."""
    return Relation(relation.margin.to(device), relation.valid.to(device))


def markdown(rows: Sequence[Row], device: str, scale: Scale) -> str:
    """All numbers as tables."""
    train = [["stage", "precision", "ms a step", "images/s", "peak MiB"]]
    rest = [["step", "precision", "N", "pairs", "ms"]]
    for row in rows:
        if row.part == "training":
            train.append([row.name, row.precision, *_texts(row.ms, row.images_per_s, row.peak_mib)])
        elif row.part != "inference":
            rest.append([row.name, row.precision, *_texts(row.instances, row.pairs, row.ms)])
    return "\n".join([
        f"# On one {device}\n",
        f"Images of {scale.size[0]}x{scale.size[1]} px, random weights, median milliseconds.\n",
        f"## Training, batches of {scale.batch} images that are on the GPU already\n",
        markdown_table(train),
        "## Inference of one image by stage\n",
        "Detections are replaced by generated ones, N of them.  The GPU finishes each stage before the next begins,"
        " except in the last row.\n",
        markdown_table(by_stage([row for row in rows if row.part == "inference"])),
        "## Relation steps, fusion and PQ\n",
        "Equal to the CPU's: pair statistics, fused maps with their segments and records, and the counts of PQ.\n",
        markdown_table(rest),
    ])  # fmt: skip


def by_stage(rows: Sequence[Row]) -> list[list[str]]:
    """One row a stage, one column a precision and number of instances."""
    columns = list(dict.fromkeys((row.precision, row.instances) for row in rows))
    times = {(row.name, row.precision, row.instances): row.ms for row in rows}
    stages = dict.fromkeys(row.name for row in rows)
    return [
        ["stage", *(f"{precision}, N = {count}" for precision, count in columns)],
        *([stage, *_texts(*(times.get((stage, *column)) for column in columns))] for stage in stages),
    ]


def _texts(*values: float | None) -> list[str]:
    return ["" if value is None else str(value) if isinstance(value, int) else f"{value:.2f}" for value in values]
