"""How many images a second the work on stored predictions and on annotations of COCO's size gets through."""

from __future__ import annotations

import json
import logging
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from PIL import Image
from pycocotools import mask as rle_tools
from rich.console import Console

from panoptic_occ.commands import evaluating as pipeline
from panoptic_occ.common.files import write_json, write_text
from panoptic_occ.config.compose import compose
from panoptic_occ.data.coco.panoptic_io import write_panoptic_png
from panoptic_occ.data.loading.loader import TransformedSamples
from panoptic_occ.data.relations.build import build_relations
from panoptic_occ.runs.build import build_data
from panoptic_occ.runs.environment import environment
from panoptic_occ.runs.folders import predictions_folder
from scripts.benchmark.growth import markdown_table
from scripts.benchmark.inputs import COCO_LIKE, NUM_THINGS, VOID_SHARE, categories, detections, smooth
from scripts.benchmark.measure import cores

IMAGES, QUICK_IMAGES = 400, 12
THINGS, STUFF = 12, 4
SPLITS = ("train2017", "val2017")
COCO_VAL = 5000
STORED = ("base.zip", "truth.zip")
GRID = (
    "grid={fusion.max_occluded: [0.4, 0.5, 0.6], fusion.min_visible: [0.2, 0.3, 0.4], "
    "occlusion.sig_ratio: [0.05, 0.1, 0.2]}"
)
WORDS = ("experiment=oracle_base", "occlusion=area", "compare=[]", "data=coco", "fusion.stuff_area=4096", "trainer=cpu")
NOTE = f"""On one core and generated images of {COCO_LIKE[0]}x{COCO_LIKE[1]} with {THINGS} things that overlap as
confident detections of COCO do, without the start of the command.  {COCO_VAL} images: how long so many would take."""


@dataclass(frozen=True)
class Throughput:
    """Images a second of one kind of work; ``target``: what is asked of it."""

    work: str
    images: int
    seconds: float
    target: float | None = None

    @property
    def speed(self) -> float:
        """Images a second."""
        return self.images / self.seconds


def run(out: Path, quick: bool = False) -> None:
    """Prints the table and writes throughput.json and throughput.md into ``out``; ``quick``: a few images."""
    logging.getLogger("panoptic_occ").setLevel(logging.WARNING)
    with tempfile.TemporaryDirectory(prefix="panoptic_occ_bench_") as folder, cores(1):
        found, kilobytes = measured(Path(folder), QUICK_IMAGES if quick else IMAGES)
    about = {"environment": environment(), "kilobytes_an_image": kilobytes, "work": [asdict(t) for t in found]}
    write_json(out / "throughput.json", about, indent=1)
    text = to_markdown(found, kilobytes)
    write_text(out / "throughput.md", text)
    Console().print(text, markup=False, highlight=False, soft_wrap=True)


def measured(folder: Path, images: int) -> tuple[list[Throughput], float]:
    """The work on ``images`` images written below ``folder``, and kilobytes of stored predictions an image."""
    write_data_set(folder / "coco", images)
    places = [f"data.root={folder}/coco", f"runs_dir={folder}/runs", f"data.source.cache_dir={folder}/cache"]
    words = [*WORDS, *places, "processes=1", "data.num_workers=0", "trainer.enable_progress_bar=false"]
    data = build_data(compose(words))
    relations = seconds(lambda: build_relations(data.eval_data, folder / "relations.safetensors"))
    found = [Throughput("prepare: ground-truth relations", images, relations, 100)]
    train = TransformedSamples(data.train_data, data.train_transform, images)
    few = min(images, 50)
    reading = seconds(lambda: [train[k] for k in range(few)])
    found.append(Throughput("reading of training images, resized to 640..800 px", few, reading))
    with silent():
        pipeline.evaluate(compose([*words, "save_predictions=true"]), words)
        for name, more, target in (("one policy", (), 200), ("a grid of 27 points", (GRID,), None)):
            took: list[float] = []
            with mock.patch.object(pipeline, "evaluate_stored", timed(pipeline.evaluate_stored, took)):
                pipeline.evaluate(compose([*words, *more, "saved=true", "force=true"]), words)
            found.append(Throughput(f"evaluate saved=true: fusion and PQ, {name}", images, took[0], target))
    stored = predictions_folder(compose(words))
    return found, sum((stored / name).stat().st_size for name in STORED) / images / 1000


def write_data_set(root: Path, images: int) -> None:
    """COCO's files with ``images`` generated images in each split; both splits are the same."""
    notes: list[dict[str, Any]] = []
    things: list[dict[str, Any]] = []
    for number in range(1, images + 1):
        ids, masks, labels = painted(number)
        name = f"{number:012}"
        pixels = (smooth(np.random.default_rng(number), 3, (60, 80), COCO_LIKE) * 50 + 128).clamp(0, 255)
        for split in SPLITS:
            (root / split).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.byte().permute(1, 2, 0).numpy()).save(root / split / f"{name}.jpg", quality=90)
            write_panoptic_png(root / "annotations" / f"panoptic_{split}" / f"{name}.png", ids)
        present, areas = np.unique(ids, return_counts=True)
        segments = [
            {"id": int(k), "category_id": labels[k - 1] + 1, "area": int(a), "bbox": [0, 0, 1, 1], "iscrowd": 0}
            for k, a in zip(present, areas, strict=True)
            if k
        ]
        notes.append({"image_id": number, "file_name": f"{name}.png", "segments_info": segments})
        for k, mask in enumerate(masks):
            rle = rle_tools.encode(np.asfortranarray(mask.astype(np.uint8)))
            entry = {"image_id": number, "category_id": labels[STUFF + k] + 1, "iscrowd": 0, "area": int(mask.sum())}
            segmentation = {"size": rle["size"], "counts": rle["counts"].decode()}
            box = rle_tools.toBbox(rle).tolist()
            things.append({"id": len(things) + 1, **entry, "bbox": box, "segmentation": segmentation})
    height, width = COCO_LIKE
    listed = [{"id": n, "file_name": f"{n:012}.jpg", "height": height, "width": width} for n in range(1, images + 1)]
    known = categories().to_json()
    for split in SPLITS:
        folder = root / "annotations"
        write_json(folder / f"panoptic_{split}.json", {"images": listed, "annotations": notes, "categories": known})
        only_things = [c for c in known if c["isthing"]]
        whole = {"images": listed, "annotations": things, "categories": only_things}
        (folder / f"instances_{split}.json").write_text(json.dumps(whole), encoding="utf-8")


def painted(seed: int) -> tuple[np.ndarray, list[np.ndarray], list[int]]:
    """A panoptic map (H, W) with ids from 1, the whole masks of its things, and the label of every id."""
    rng = np.random.default_rng(seed)
    ids = smooth(rng, STUFF, (4, 5), COCO_LIKE).argmax(dim=0) + 1
    found = detections(THINGS, COCO_LIKE, seed, scale=0.7)
    labels = [
        *rng.choice(np.arange(NUM_THINGS, NUM_THINGS + 50), STUFF, replace=False).tolist(),
        *found.labels.tolist(),
    ]
    masks = list(found.instances().masks.dense().numpy())
    for k in rng.permutation(THINGS).tolist():
        ids[torch.from_numpy(masks[k])] = STUFF + 1 + k
    void = smooth(rng, 1, (5, 6), COCO_LIKE)[0]
    ids[void >= void.flatten().kthvalue(round((1 - VOID_SHARE) * void.numel())).values] = 0
    return ids.numpy(), masks, labels


def seconds(work: Callable[[], object]) -> float:
    """Wall time of a call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def timed(work: Callable[..., Any], took: list[float]) -> Callable[..., Any]:
    """``work`` that notes the seconds of every call in ``took``."""

    def watched(*arguments: Any, **named: Any) -> None:
        took.append(seconds(lambda: work(*arguments, **named)))

    return watched


@contextmanager
def silent() -> Iterator[None]:
    """Without the tables that commands print."""
    with mock.patch.object(pipeline, "show", lambda *_: None):
        yield


def to_markdown(found: Sequence[Throughput], kilobytes: float) -> str:
    """The table and what it means."""
    header = ["work", "images/s", "at least", f"{COCO_VAL} images, s"]
    rows = [
        [t.work, f"{t.speed:.0f}", "-" if t.target is None else f"{t.target:.0f}", f"{COCO_VAL / t.speed:.0f}"]
        for t in found
    ]
    size = f"Stored predictions take {kilobytes:.0f} kB an image (without the answers of trained modules)."
    return f"# Images a second\n\n{NOTE}\n\n{markdown_table([header, *rows])}\n{size}\n"
