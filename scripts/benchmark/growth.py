"""How cost grows: time and peak memory of every relation step and of the fusion against the number of instances.

Everything runs on one core.  Time is processor time, which busy neighbours hardly change: the median of a few runs.
Memory is how far the resident memory of the process rises during one more run, beyond the inputs and the weights: the
high-water mark of the kernel, which sees torch, numpy and the scratch space of the convolutions alike.
"""

from __future__ import annotations

import itertools
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from rich.console import Console

from panoptic_occ.common.files import atomic_path, write_json, write_text
from panoptic_occ.fusion.engine import fuse
from panoptic_occ.fusion.policy import FusionPolicy
from panoptic_occ.occlusion.banet import AppearanceOrder
from panoptic_occ.occlusion.base import Context, OcclusionModel
from panoptic_occ.occlusion.baselines.area import AreaOrder
from panoptic_occ.occlusion.oanet import SpatialRanking
from panoptic_occ.occlusion.ocfusion import OCFusion
from panoptic_occ.occlusion.rap import RAP
from panoptic_occ.occlusion.refine import SoftOcclusion
from panoptic_occ.occlusion.sognet import RelationalEmbedding
from panoptic_occ.occlusion.upsnet import PixelArgmax
from panoptic_occ.runs.environment import environment
from panoptic_occ.structures.instances import InstanceSet
from panoptic_occ.structures.masks import MaskCrops, PairStats
from panoptic_occ.stuff.base import semantic_map, upsample
from scripts.benchmark.growth_plot import draw
from scripts.benchmark.inputs import COCO_LIKE, LARGE, Size, categories, detections, semantic_logits
from scripts.benchmark.measure import cores, high_water

METHODS: Mapping[str, type[OcclusionModel]] = {
    "OANet": SpatialRanking,
    "OCFusion": OCFusion,
    "BANet": AppearanceOrder,
    "RAP": RAP,
    "REFINE": SoftOcclusion,
    "SOGNet": RelationalEmbedding,
    "UPSNet": PixelArgmax,
}
PAIR_STATISTICS, FUSION = "pair statistics", "fusion"
STEPS = (*METHODS, PAIR_STATISTICS, FUSION)
SIG_RATIO = 0.2  # of the pairs that are counted, and of the methods that ask about pairs
POLICY = FusionPolicy(conf_thr=0.0, min_visible=0.5, duplicate_thr=0.5)  # every instance takes part
SEED = 18  # of the detections: their pairs grow evenly, about with the square of the instances
MOST_RUNS, ENOUGH_S = 9, 0.5


@dataclass(frozen=True)
class Plan:
    """What is measured; ``channels``: of the RoI features (256 gives every head the width of its paper).

    A step that takes longer than ``limit_s`` is left out for more instances.
    """

    counts: tuple[int, ...] = (10, 20, 50, 100, 200, 400)
    sizes: tuple[Size, ...] = (COCO_LIKE, LARGE)
    channels: int = 256
    limit_s: float = 3.0


QUICK = Plan(counts=(4, 8), sizes=((96, 128),), channels=16)


@dataclass(frozen=True)
class Point:
    """One step on one image: median milliseconds and peak MiB; None: left out, because fewer instances took too long.

    ``pairs``: pairs of which one mask shares at least a fifth with the other.
    """

    step: str
    size: Size
    instances: int
    pairs: int
    ms: float | None = None
    mib: float | None = None


def run(out: Path, quick: bool = False) -> None:
    """Writes growth.json and growth.md into ``out``, and the picture beside them or, for ``results``, into ``docs``.

    ``quick``: a few small points, to see that it works.
    """
    with cores(1):
        points = measure(QUICK if quick else Plan())
    write_json(out / "growth.json", {"environment": environment(), "points": [asdict(p) for p in points]}, indent=1)
    write_text(out / "growth.md", markdown(points))
    picture = (out.parent / "docs" if out.name == "results" else out) / "growth.png"
    with atomic_path(picture) as path:
        draw(points, path)
    Console().print(f"Written to {out / 'growth.json'}, growth.md and {picture}", soft_wrap=True, markup=False)


@torch.inference_mode()
def measure(plan: Plan) -> list[Point]:
    """All points of ``plan``."""
    torch.manual_seed(0)
    models = {
        name: method(in_channels=plan.channels, categories=categories()).eval() for name, method in METHODS.items()
    }
    points: list[Point] = []
    for size in plan.sizes:
        slow: set[str] = set()
        context = image_context(size)
        for count in plan.counts:
            instances = scene(count, size, plan.channels)
            stats = PairStats.of(instances.masks)
            pairs = int(stats.significant(SIG_RATIO).sum()) // 2
            for step, function in steps(instances, stats, context, models):
                point = Point(step, size, count, pairs)
                if step not in slow:
                    ms, mib = cost(function)
                    point = replace(point, ms=ms, mib=mib)
                    slow |= {step} if ms > 1000 * plan.limit_s else set()
                points.append(point)
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
    """The steps by name, in the order of ``STEPS``; each run gets masks of its own, so nothing it kept of the masks is
    there for the next."""
    assert context.semantic is not None
    labels = context.semantic.labels
    order = AreaOrder(in_channels=0, categories=categories())(instances, stats)

    def fresh() -> InstanceSet:
        masks = instances.masks
        return replace(instances, masks=MaskCrops(masks.pixels, masks.windows, masks.size))

    for name, model in models.items():
        yield name, lambda model=model: model(fresh(), stats, context)  # type: ignore[misc]
    yield PAIR_STATISTICS, lambda: PairStats.of(fresh().masks)
    yield FUSION, lambda: fuse(fresh(), stats, order, labels, POLICY)


def cost(function: Callable[[], object]) -> tuple[float, float | None]:
    """Median milliseconds of a few runs and the peak of one in MiB, both without the first run unless that was slow."""
    seconds, mib = high_water(partial(processor_seconds, function))
    if seconds > ENOUGH_S:
        return 1000 * seconds, mib
    times: list[float] = []
    while not times or (len(times) < MOST_RUNS and sum(times) < ENOUGH_S):
        times.append(processor_seconds(function))
    return 1000 * statistics.median(times), high_water(function)[1]


def processor_seconds(function: Callable[[], object]) -> float:
    """What one run takes."""
    start = time.process_time()
    function()
    return time.process_time() - start


def exponent(points: Sequence[tuple[float, float]]) -> float:
    """k of the least-squares fit y = c x^k through (x, y), a line in logarithms; NaN for fewer than two different x.

    Between two neighbours it tells of cliffs: there it is far above that of all points.
    """
    if len({x for x, _ in points}) < 2:
        return math.nan
    x, y = np.log(points).T
    return float(np.polyfit(x, y, 1)[0])


def markdown(points: Sequence[Point]) -> str:
    """Exponents, then time and memory of every point."""
    parts = ["# How cost grows with the number of instances\n", __doc__.partition("\n\n")[2] if __doc__ else ""]
    for size in dict.fromkeys(point.size for point in points):
        here = [point for point in points if point.size == size]
        parts.append(f"## {size[0]}x{size[1]} px\n")
        parts.append(exponent_table(here))
        for title, field in (("Milliseconds", "ms"), ("Peak MiB beyond the inputs", "mib")):
            parts.append(f"{title}:\n")
            parts.append(value_table(here, field))
    parts.append(f"-: not measured, fewer instances took longer than {Plan().limit_s:g} s.\n")
    return "\n".join(parts)


def exponent_table(points: Sequence[Point]) -> str:
    """One row a step: the exponents of its time in the instances and in the pairs, and of its memory."""
    rows = [["step", "time ~ N^k", "largest between neighbours", "time ~ pairs^k", "memory ~ N^k"]]
    for step in STEPS:
        found = [point for point in points if point.step == step]
        timed = [(float(p.instances), p.ms) for p in found if p.ms]
        paired = [(float(p.pairs), p.ms) for p in found if p.ms and p.pairs]
        kept = [(float(p.instances), p.mib) for p in found if p.mib]
        steepest = max(map(exponent, map(list, itertools.pairwise(timed))), default=math.nan)
        powers = exponent(timed), steepest, exponent(paired), exponent(kept)
        rows.append([step, *("-" if math.isnan(k) else f"{k:.1f}" for k in powers)])
    return markdown_table(rows)


def value_table(points: Sequence[Point], field: str) -> str:
    """One row for every number of instances, one column a step."""
    rows = [["N", "pairs", *STEPS]]
    for count, group in itertools.groupby(points, key=lambda point: point.instances):
        found = {point.step: point for point in group}
        values = [getattr(found[step], field) for step in STEPS]
        pairs = next(iter(found.values())).pairs
        rows.append([str(count), str(pairs), *("-" if v is None else f"{v:.3g}" for v in values)])
    return markdown_table(rows)


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """The first row is the header, all columns but the first are numbers."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    lines.insert(1, "|---|" + "---:|" * (len(rows[0]) - 1))
    return "\n".join(lines) + "\n"
