"""Training and evaluation with every option, by the suite's own commands and in its own numbers, on one device.

With a GPU: 512 px scenes and a ResNet-50 (gpu.json, gpu.md); its maps must be those that the CPU fuses from the same
predictions.  Without: the networks of ``make train`` (options.json, options.md).
"""

from __future__ import annotations

import csv
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from panoptic_occ.common.files import read_json
from scripts.benchmark.checks import expect
from scripts.documents import markdown, publish, say
from scripts.suite import Run, environment

OPTIONS = (
    ("trainer.precision=32-true",),
    ("trainer.precision=bf16-mixed",),
    ("trainer.precision=32-true", "channels_last=true"),
    ("trainer.precision=bf16-mixed", "channels_last=true"),
    ("trainer.precision=32-true", "compile=true"),
)
STEPS, DETECTIONS = 40, 20
DATA = ("data.source.train_images=128", "data.source.val_images=32")
GPU, CPU = ("preset=scenes_large", "trainer=gpu", *DATA), ("trainer=cpu", *DATA)
# A network of a few steps is sure of nothing: every image gets as many detections as are allowed.
COMMON = (
    "method=ocfusion", "compare=[rap,refine,ground_truth]", "fusion.conf_thr=0", f"thing.max_detections={DETECTIONS}",
    "schedule.base.milestones=[]", "schedule.occlusion.milestones=[]", "timing=true", "validate.every=null",
    "trainer.log_every_n_steps=1", "trainer.enable_progress_bar=false",
)  # fmt: skip
COLUMNS = (
    "base, images/s", "module, images/s", "memory, GB", "network, ms", "OCFusion, ms", "RAP, ms", "REFINE, ms",
    "fusion, ms", "command, s",
)  # fmt: skip
NOTE = f"""Training: images a second of both stages (OCFusion's module), the median of the second half of {STEPS} steps;
the memory of torch's tensors.  Evaluation: milliseconds an image of the network, the relations and the fusion, of at
most {DETECTIONS} detections.  Command: seconds of all of that, start and compilation included."""


def run(out: Path, quick: bool = False) -> None:
    """Writes the results into ``out``; MismatchError when the GPU's maps are not the CPU's.  ``quick``: tiny."""
    gpu = torch.cuda.is_available()
    words = ("preset=tiny",) if quick else GPU if gpu else CPU
    steps = [f"schedule.{stage}.steps={4 if quick else STEPS}" for stage in ("base", "occlusion")]
    rows = {}
    with tempfile.TemporaryDirectory(prefix="panoptic_occ_bench_") as folder:
        places = [f"runs_dir={folder}/runs", f"data.source.cache_dir={folder}/data"]
        for option in OPTIONS[: 1 if quick else None]:
            command = [*words, *COMMON, *steps, *option, *places]
            rows[" ".join(option)] = measure(command)
            if gpu:
                check(command)
    device = torch.cuda.get_device_name() if gpu else f"{torch.get_num_threads()} threads of a CPU"
    cells = [(option, *("-" if v is None else f"{v:.3g}" for v in row.values())) for option, row in rows.items()]
    text = f"# Training and evaluation on {device}\n\n{NOTE}\n\n{markdown(('option', *COLUMNS), cells)}\n"
    content = {"environment": environment(), "words": [*words, *COMMON, *steps], "options": rows}
    publish(out / ("gpu.json" if gpu else "options.json"), content, text)
    say(text)


def measure(words: Sequence[str]) -> dict[str, float | None]:
    """Trains and evaluates with ``words``, in a process of its own; the numbers under ``COLUMNS``."""
    start = time.perf_counter()
    _command("train", *words)
    seconds, one = time.perf_counter() - start, Run.of(words)
    orders = read_json(one.metrics)["relations"]
    (base, memory), (module, _) = (_logged(file.parent) for file in (one.base, one.module))
    relations = [orders[name]["relation_ms"] for name in ("ocfusion", "rap", "refine")]
    times = orders["ocfusion"]
    numbers = (base, module, memory, times["network_ms"], *relations, times["fusion_ms"], seconds)
    return dict(zip(COLUMNS, numbers, strict=True))


def check(words: Sequence[str]) -> None:
    """MismatchError unless the CPU makes the same maps as the network's device of the same predictions."""
    results = []
    for more in (["save_predictions=true"], ["saved=true", "trainer=cpu", "force=true"]):
        _command("evaluate", *words, *more)
        orders = read_json(Run.of(words).evaluation([*words, *more]).metrics)["relations"].items()
        results.append({(o, k): v for o, row in orders for k, v in row.items() if not k.endswith(("_ms", "FPS"))})
    wrong = [(key, value, results[1].get(key)) for key, value in results[0].items() if value != results[1].get(key)]
    expect(not wrong, f"the CPU fuses other maps of the same predictions: {wrong}")


def _command(name: str, *words: str) -> None:
    subprocess.run([sys.executable, "-m", f"panoptic_occ.{name}", *words], check=True, stdout=subprocess.DEVNULL)


def _logged(folder: Path) -> tuple[float, float | None]:
    """Images a second and memory of the stage whose weights are in ``folder``."""
    with next((folder / "logs").glob("*/metrics.csv")).open(encoding="utf-8", newline="") as file:
        cells = [(key, float(value)) for row in csv.DictReader(file) for key, value in row.items() if value]
    speeds = [value for key, value in cells if key.endswith("images_per_s")]
    memory = max((value for key, value in cells if key.endswith("gpu_memory_gb")), default=None)
    return statistics.median(speeds[len(speeds) // 2 :]), memory
