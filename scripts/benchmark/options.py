"""What the options of training are worth: the time of a step of stage 1 with each, beside the defaults."""

from __future__ import annotations

import logging
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

from rich.console import Console
from torch.optim.optimizer import register_optimizer_step_post_hook

from panoptic_occ.common.files import write_json, write_text
from panoptic_occ.config.compose import compose
from panoptic_occ.runs.build import build_data
from panoptic_occ.runs.environment import environment
from scripts.benchmark.growth import markdown_table
from scripts.benchmark.profile import QUICK_WORDS, in_folder, train_base

OPTIONS: Mapping[str, tuple[str, ...]] = {
    "defaults": (),
    "trainer.precision=bf16-mixed": ("trainer.precision=bf16-mixed",),
    "channels_last=true": ("channels_last=true",),
    "compile=true": ("compile=true",),
    "defaults, again": (),
}
"""The defaults come twice: how far they differ is what the machine does by itself."""
STEPS = 40
WORDS = (
    "data=scenes",
    "data.source.train_images=128",
    "data.source.val_images=1",
    f"schedule.base.steps={STEPS}",
    f"schedule.base.checkpoint_every={STEPS}",
    "validate.every=null",
)
NOTE = f"""A step of stage 1 of `make train`, on all cores: the median of the second half of {STEPS} steps, and how many
times faster than that of the first row.  Start: seconds until the first step is done, compilation included."""


@dataclass(frozen=True)
class Speed:
    """Milliseconds of a step, and seconds until the first one was done."""

    option: str
    step: float
    start: float


def run(out: Path, quick: bool = False) -> None:
    """Prints the table and writes options.json and options.md into ``out``; ``quick``: tiny runs, no compilation."""
    chosen = {name: more for name, more in OPTIONS.items() if not (quick and "compile=true" in more)}
    with tempfile.TemporaryDirectory() as folder:
        words = [*(QUICK_WORDS if quick else WORDS), *in_folder(Path(folder))]
        build_data(compose(words))  # painted before, so that no option pays for it
        speeds = [
            in_fresh_process(name, [*words, *more, f"runs_dir={folder}/{k}"])
            for k, (name, more) in enumerate(chosen.items())
        ]
    found = {"environment": environment(), "options": [asdict(speed) for speed in speeds]}
    write_json(out / "options.json", found, indent=1)
    text = to_markdown(speeds)
    write_text(out / "options.md", text)
    Console().print(text, markup=False, highlight=False, soft_wrap=True)


def in_fresh_process(option: str, words: Sequence[str]) -> Speed:
    """``timed`` in a process of its own, as a user would start it."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(timed, option, list(words)).result()


def timed(option: str, words: list[str]) -> Speed:
    """Trains the base and says how long a step takes."""
    logging.getLogger("panoptic_occ").setLevel(logging.WARNING)
    started, ends = time.perf_counter(), []
    hook = register_optimizer_step_post_hook(lambda *_: ends.append(time.perf_counter()))
    try:
        train_base(words)
    finally:
        hook.remove()
    late = ends[len(ends) // 2 :]
    steps = [after - before for before, after in pairwise(late)]
    return Speed(option, 1000 * statistics.median(steps), ends[0] - started)


def to_markdown(speeds: Sequence[Speed]) -> str:
    """The table and what it means."""
    first = speeds[0].step
    header = ["option", "ms a step", "faster", "start, s"]
    rows = [[s.option, f"{s.step:.0f}", f"{first / s.step:.2f}x", f"{s.start:.1f}"] for s in speeds]
    return f"# Options of training\n\n{NOTE}\n\n{markdown_table([header, *rows])}"
