"""How cost grows: time and peak memory of every relation step and of the fusion against the number of instances.

Everything runs on one core.  Time is processor time, which busy neighbours hardly change: the median of a few runs.
Memory is how far the resident memory of the process rises during one more run, beyond the inputs and the weights: the
high-water mark of the kernel, which sees torch, numpy and the scratch space of the convolutions alike.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise, product
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

from panoptic_occ.common.files import atomic_path
from panoptic_occ.fusion.engine import FusionPolicy, fuse
from panoptic_occ.occlusion.base import Context, OcclusionModel
from panoptic_occ.occlusion.baselines.area import AreaOrder
from panoptic_occ.structures.instances import InstanceSet
from panoptic_occ.structures.masks import PairStats
from panoptic_occ.stuff.base import semantic_map, upsample
from scripts.benchmark.inputs import COCO_LIKE, LARGE, Size, categories, detections, fresh, semantic_logits
from scripts.benchmark.measure import Patience, cores, first_call, in_turns
from scripts.documents import markdown, publish, say
from scripts.suite import environment, plan_of

METHODS = ("OANet", "OCFusion", "BANet", "RAP", "REFINE", "SOGNet", "UPSNet")
STEPS = (*METHODS, "pair statistics", "fusion")
SIG_RATIO = 0.2  # of the pairs that are counted
POLICY = FusionPolicy(conf_thr=0.0, min_visible=0.5, duplicate_thr=0.5)  # every instance takes part
SEED = 18  # of the detections: their pairs grow evenly, about with the square of the instances
PATIENCE = Patience(seconds=0.5, turns=1, most=9)
LIMIT_MS = 3000.0  # a step that takes longer is left out for more instances
COUNTS, SIZES = (10, 20, 50, 100, 200, 400), (COCO_LIKE, LARGE)

QUANTITIES = (("ms", "time, ms"), ("mib", "peak memory, MiB"))
SHAPES = "os^DvPX<>"
LEAST = 0.1  # of both: less does not matter, and would squeeze the rest


@dataclass(frozen=True)
class Point:
    """One step on one image: median milliseconds and peak MiB; None: left out, because fewer instances took too long.
    ``pairs``: of which one mask shares at least a fifth with the other."""

    step: str
    size: Size
    instances: int
    pairs: int
    ms: float | None = None
    mib: float | None = None


def run(out: Path, quick: bool = False) -> None:
    """Writes growth.json and growth.md into ``out``, and the picture beside them or, for ``results``, into ``docs``.
    ``quick``: a few small points, to see that it works."""
    with cores(1):
        points = measure((4, 8), ((96, 128),), channels=16) if quick else measure()
    content = {"environment": environment(), "points": [asdict(point) for point in points]}
    publish(out / "growth.json", content, report(points))
    picture = (out.parent / "docs" if out.name == "results" else out) / "growth.png"
    with atomic_path(picture) as path:
        draw(points, path)
    say(f"Written to {out / 'growth.json'}, growth.md and {picture}")


@torch.inference_mode()
def measure(
    counts: Sequence[int] = COUNTS, sizes: Sequence[Size] = SIZES, channels: int = 256, limit_ms: float = LIMIT_MS
) -> list[Point]:
    """All points; ``channels``: of the RoI features (256 gives every head the width of its paper)."""
    orders = {name: plan_of([f"occlusion={name.lower()}"]).order for name in METHODS}
    models = {name: order.build(channels, categories()).eval() for name, order in orders.items()}
    points: list[Point] = []
    for size in sizes:
        slow: set[str] = set()
        context = image_context(size)
        for count in counts:
            instances = scene(count, size, channels)
            stats = PairStats.of(instances.masks)
            pairs = int(stats.significant(SIG_RATIO).sum()) // 2
            for step, function in steps(instances, stats, context, models):
                ms, mib = (None, None) if step in slow else cost(function)
                slow |= {step} if ms and ms > limit_ms else set()
                points.append(Point(step, size, count, pairs, ms, mib))
    return points


def scene(count: int, size: Size, channels: int) -> InstanceSet:
    """``count`` detections, best score first, with random RoI features."""
    instances = detections(count, size, SEED).instances()
    features = np.random.default_rng(count).standard_normal((count, channels, 14, 14), dtype=np.float32)
    return replace(instances, roi_features=torch.from_numpy(features))


def image_context(size: Size) -> Context:
    """What the methods read beside the detections: an image of noise, and logits of every class at every pixel."""
    height, width = size
    image = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, height, width), dtype=np.uint8))
    every = categories()
    logits = upsample(semantic_logits(size, channels=len(every))[None])[0, :, :height, :width]
    return Context(image, semantic=semantic_map(logits, 0, every.num_things))


def steps(
    instances: InstanceSet, stats: PairStats, context: Context, models: Mapping[str, OcclusionModel]
) -> Iterator[tuple[str, Callable[[], object]]]:
    """The steps by name, in the order of ``STEPS``; no run finds what another kept of the masks."""
    assert context.semantic is not None
    labels = context.semantic.labels
    order = AreaOrder(in_channels=0, categories=categories())(instances, stats)

    def anew() -> InstanceSet:
        return replace(instances, masks=fresh(instances.masks))

    for name, model in models.items():
        yield name, lambda model=model: model(anew(), stats, context)  # type: ignore[misc]
    yield "pair statistics", lambda: PairStats.of(fresh(instances.masks))
    yield "fusion", lambda: fuse(anew(), stats, order, labels, POLICY)


def cost(function: Callable[[], object]) -> tuple[float, float | None]:
    """Median milliseconds of a few runs and the peak of one in MiB, both without the first run unless that was slow."""
    _, seconds, mib = first_call(function, time.process_time)
    quick = seconds < PATIENCE.seconds
    times = in_turns([function], PATIENCE, time.process_time, [seconds])[0] if quick else [seconds]
    return 1000 * statistics.median(times), mib


def exponent(points: Sequence[tuple[float, float]]) -> float:
    """k of the least-squares fit y = c x^k through (x, y), a line in logarithms; NaN for fewer than two different x."""
    if len({x for x, _ in points}) < 2:
        return math.nan
    x, y = np.log(points).T
    return float(np.polyfit(x, y, 1)[0])


def report(points: Sequence[Point]) -> str:
    """Exponents of time in the instances and in the pairs and of memory, then time and memory of every point."""
    parts = ["# How cost grows with the number of instances", (__doc__ or "").partition("\n\n")[2].strip()]
    header = ("step", "time ~ N^k", "largest between neighbours", "time ~ pairs^k", "memory ~ N^k")
    for size in dict.fromkeys(point.size for point in points):
        here = [point for point in points if point.size == size]
        exponents = [(step, *_exponents([point for point in here if point.step == step])) for step in STEPS]
        parts += [f"## {size[0]}x{size[1]} px", markdown(header, exponents)]
        for title, field in (("Milliseconds:", "ms"), ("Peak MiB beyond the inputs:", "mib")):
            counts = dict.fromkeys((point.instances, point.pairs) for point in here)
            values = {(point.instances, point.step): getattr(point, field) for point in here}
            texts = {key: "-" if value is None else f"{value:.3g}" for key, value in values.items()}
            rows = [(n, pairs, *(texts[n, step] for step in STEPS)) for n, pairs in counts]
            parts += [title, markdown(("N", "pairs", *STEPS), rows)]
    return "\n\n".join([*parts, f"-: not measured, fewer instances took longer than {LIMIT_MS / 1000:g} s.\n"])


def _exponents(points: Sequence[Point]) -> list[str]:
    times = [(float(p.instances), p.ms) for p in points if p.ms]
    by_pairs = [(float(p.pairs), p.ms) for p in points if p.ms and p.pairs]
    memory = [(float(p.instances), p.mib) for p in points if p.mib]
    steepest = max((exponent(pair) for pair in pairwise(times)), default=math.nan)
    powers = exponent(times), steepest, exponent(by_pairs), exponent(memory)
    return ["-" if math.isnan(k) else f"{k:.1f}" for k in powers]


def draw(points: Sequence[Point], path: Path) -> None:
    """Writes the picture as PNG: time above, memory below, one column an image size, both axes logarithmic."""
    sizes = list(dict.fromkeys(point.size for point in points))
    figure = Figure(figsize=(1.6 + 5 * len(sizes), 8.5), layout="constrained")
    grid = figure.subplots(2, len(sizes), sharex=True, sharey="row", squeeze=False)
    for (row, (field, label)), (column, size) in product(enumerate(QUANTITIES), enumerate(sizes)):
        axes = grid[row][column]
        for step, shape in zip(dict.fromkeys(point.step for point in points), SHAPES, strict=False):
            drawn = [p for p in points if (p.size, p.step) == (size, step) and getattr(p, field) is not None]
            values = [max(getattr(p, field), LEAST) for p in drawn]
            axes.loglog([p.instances for p in drawn], values, marker=shape, markersize=5, label=step)
        axes.set(title=f"{size[0]} x {size[1]} px", xlabel="instances", ylabel=label)
        axes.grid(color="#dddddd")
    figure.legend(*grid[0][0].get_legend_handles_labels(), loc="outside right upper", frameon=False)
    figure.savefig(path, format="png", dpi=110)
