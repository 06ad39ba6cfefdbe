"""How many images a second the work on stored predictions and on annotations of COCO's size gets through."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from panoptic_occ.commands import evaluating
from panoptic_occ.data.loading.loader import TransformedSamples
from panoptic_occ.data.relations.build import build_relations
from scripts.benchmark.measure import cores
from scripts.documents import markdown, publish, say
from scripts.suite import Run, build_data, environment, plan_of

IMAGES, QUICK_IMAGES = 200, 12
SIDE = 554  # the pixels of 480x640
COCO_VAL = 5000
GRID = (
    "grid={fusion.max_occluded: [0.4, 0.5, 0.6], fusion.min_visible: [0.2, 0.3, 0.4], "
    "occlusion.sig_ratio: [0.05, 0.1, 0.2]}"
)
WORDS = (
    "experiment=oracle_base", "occlusion=area", "compare=[]", f"data.source.size={SIDE}", "fusion.stuff_area=4096",
    "data.train_transform.short_edge=[640,672,704,736,768,800]", "data.train_transform.max_edge=1333",
    "trainer=cpu", "processes=1", "data.num_workers=0", "trainer.enable_progress_bar=false",
)  # fmt: skip
NOTE = f"""Processor time on one core, of painted scenes of {SIDE}x{SIDE} px, as many as COCO's images have, with
their annotations as detections; without the start of the command.  {COCO_VAL} images: how long so many would take."""


def run(out: Path, quick: bool = False) -> None:
    """Prints the table and writes throughput.json and throughput.md into ``out``; ``quick``: a few images."""
    logging.getLogger("panoptic_occ").setLevel(logging.WARNING)
    with tempfile.TemporaryDirectory(prefix="panoptic_occ_bench_") as folder, cores(1):
        works, kilobytes = measure(Path(folder), QUICK_IMAGES if quick else IMAGES)
    speeds = [(work, work["images"] / work["seconds"]) for work in works]
    rows = [(w["work"], f"{speed:.0f}", w["target"] or "-", f"{COCO_VAL / speed:.0f}") for w, speed in speeds]
    table = markdown(("work", "images/s", "at least", f"{COCO_VAL} images, s"), rows)
    size = f"Stored predictions take {kilobytes:.0f} kB an image (without the answers of trained modules)."
    text = f"# Images a second\n\n{NOTE}\n\n{table}\n\n{size}\n"
    content = {"environment": environment(), "kilobytes_an_image": kilobytes, "work": works}
    publish(out / "throughput.json", content, text)
    say(text)


def measure(folder: Path, images: int) -> tuple[list[dict[str, Any]], float]:
    """The work on ``images`` scenes painted below ``folder`` (``target``: images a second at least), and kilobytes of
    stored predictions an image."""
    counts = [f"data.source.{split}_images={images}" for split in ("train", "val")]
    words = [*WORDS, *counts, f"runs_dir={folder}/runs", f"data.source.cache_dir={folder}/cache"]
    data, few = build_data(words), min(images, 50)
    train = TransformedSamples(data.train_data, data.train_transform, images)
    works: list[dict[str, Any]] = []

    @contextmanager
    def timed(work: str, count: int, target: int | None = None) -> Iterator[None]:
        start = time.process_time()
        yield
        seconds = time.process_time() - start
        works.append({"work": work, "images": count, "seconds": seconds, "target": target})

    with timed("prepare: ground-truth relations", images, 100):
        build_relations(data.eval_data, folder / "relations.safetensors")
    with timed("reading of training images, resized to 640..800 px", few):
        for k in range(few):
            train[k]
    with mock.patch.object(evaluating, "show", lambda *_: None):  # the tables that commands print
        evaluating.evaluate(plan_of([*words, "save_predictions=true"]))
        for name, more, target in (("one policy", (), 200), ("a grid of 27 points", (GRID,), None)):
            watched = timed(f"evaluate saved=true: fusion and PQ, {name}", images, target)(evaluating.evaluate_stored)
            with mock.patch.object(evaluating, "evaluate_stored", watched):
                evaluating.evaluate(plan_of([*words, *more, "saved=true", "force=true"]))
    stored = Run.of(words).predictions
    return works, sum((stored / name).stat().st_size for name in ("base.zip", "truth.zip")) / images / 1000
