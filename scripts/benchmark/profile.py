"""Where a ``train`` and an ``evaluate`` run spend their time, and how much memory they need.

Every part runs in a process of its own, as a user would start it, so that its highest resident memory is its own.
"""

from __future__ import annotations

import logging
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

from omegaconf import DictConfig
from panoptic_occ.training.recipe import build_schedule
from pytorch_lightning.strategies import Strategy
from rich.console import Console
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from panoptic_occ.commands import evaluating as pipeline
from panoptic_occ.commands import training
from panoptic_occ.common.files import write_json, write_text
from panoptic_occ.config.compose import compose
from panoptic_occ.data.loading.loader import SampleLoader
from panoptic_occ.evaluation import evaluator as evaluation
from panoptic_occ.evaluation.listeners import MapWriter, Pictures
from panoptic_occ.evaluation.recording import Recording
from panoptic_occ.network.panoptic_fpn import PanopticFPN
from panoptic_occ.occlusion.base import OcclusionModel
from panoptic_occ.runs.build import build_data, run_folder
from panoptic_occ.runs.environment import environment
from panoptic_occ.runs.folders import base_folder
from panoptic_occ.runs.predictions import PredictionWriter, StoredPredictions
from panoptic_occ.structures.masks import PairStats
from panoptic_occ.training.callbacks.checkpoint_io import AtomicCheckpointIO
from panoptic_occ.training.stage import fit_stage
from scripts.benchmark.growth import markdown_table
from scripts.benchmark.stages import (
    BACKWARD,
    CONFIGURATION,
    FUSION,
    LOADING,
    METRICS,
    OCCLUSION,
    OPTIMIZER,
    ORDER,
    PAIRS,
    WRITING,
    StageClock,
    watched_model,
    wrapped,
)
from scripts.benchmark.throughput import write_data_set

# Where a name is looked up, the name, and its stage; the stages of the network are those of ``watched_model``.
LIBRARY: tuple[tuple[Any, str, str], ...] = (
    (PanopticFPN, "batch", LOADING),
    (StoredPredictions, "sample", LOADING),
    (StoredPredictions, "output", LOADING),
    (PairStats, "of", PAIRS),
    (Recording, "complete", OCCLUSION),
    (evaluation, "relate", OCCLUSION),
    (evaluation, "fuse", FUSION),
    (evaluation.Evaluation, "update", METRICS),
    (sys.modules[__name__], "compose", CONFIGURATION),
    (pipeline, "own_config", CONFIGURATION),
    (pipeline, "write_results", WRITING),
    (Pictures, "save", WRITING),
    (Pictures, "__call__", WRITING),
    (MapWriter, "__call__", WRITING),
    (PredictionWriter, "__call__", WRITING),
    (AtomicCheckpointIO, "save_checkpoint", WRITING),
    (Strategy, "backward", BACKWARD),
)
STEPS = 16
# A network of a few steps is sure of nothing: these give about as many detections as a trained one has.
DETECTIONS = ("fusion.conf_thr=0.1", "thing.max_detections=8")
COMMON = (*DETECTIONS, "validate.every=null")  # a validation after a few steps would weigh too much
WORDS = (
    "data=scenes",
    "data.source.train_images=128",
    "data.source.val_images=64",
    f"schedule.base.steps={STEPS}",
    f"schedule.occlusion.steps={STEPS}",
    f"trainer.log_every_n_steps={STEPS}",
    *COMMON,
)
QUICK_WORDS = ("preset=tiny", *COMMON)
COCO_IMAGES = 8
COCO_WORDS = (
    *("preset=coco", "backbone.weights=null", "backbone.norm=batch", "backbone.frozen_stages=0"),
    *("data.batch_size=2", "data.num_workers=0", "schedule.reference_batch=2"),
    *(f"schedule.{stage}.{setting}" for stage in ("base", "occlusion") for setting in ("steps=2", "milestones=[]")),
    *("schedule.base.warmup_steps=0", *COMMON),
)
TRAINING = ("train, stage 1", "train, stage 2")
NOTE = f"""Milliseconds an image and their share, by stage; a stage does not count what it calls of another.  Stages of
other threads overlap with these and are marked "meanwhile".  {STEPS} steps of each training stage, so the start weighs
more than in a real run.  COCO: its configuration (ResNet-50) from scratch, two steps on two generated images of 480x640
each, read by the process that trains; with workers that goes on meanwhile.  Memory: the highest resident memory of the
process, libraries included."""
ELSE = "start, end and Lightning"
MIB = 1 << 20


@dataclass(frozen=True)
class Profile:
    """One part of the work: seconds by stage of its main thread and of other threads.

    ``processor``: seconds that all its threads computed; more wall time means waiting, for files or for neighbours.
    ``peak_mib``: highest resident memory of its process.
    """

    part: str
    images: int
    stages: Mapping[str, float]
    background: Mapping[str, float]
    processor: float
    peak_mib: float

    @property
    def seconds(self) -> float:
        """All of the main thread's time."""
        return sum(self.stages.values())


def run(out: Path, quick: bool = False) -> None:
    """Prints the profile as a table and writes profile.json and profile.md into ``out``; ``quick``: tiny runs."""
    with tempfile.TemporaryDirectory() as folder:
        words = [*(QUICK_WORDS if quick else WORDS), *in_folder(Path(folder))]
        build_data(compose(words))  # painted before, so that no part pays for it
        profiles = [in_fresh_process(part, words) for part in PARTS]
        if not quick:
            write_data_set(Path(folder) / "coco", COCO_IMAGES)
            words = [*COCO_WORDS, f"data.root={folder}/coco", *in_folder(Path(folder))]
            profiles += [replace(in_fresh_process(part, words), part=f"COCO, {part}") for part in TRAINING]
    header, rows = table(profiles)
    write_json(out / "profile.json", {"environment": environment(), "parts": [asdict(p) for p in profiles]}, indent=1)
    text = to_markdown(header, rows)
    write_text(out / "profile.md", text)
    Console().print(text, markup=False, highlight=False, soft_wrap=True)


def in_folder(folder: Path) -> list[str]:
    """Overrides that keep everything in ``folder`` and in one process, where the clock sees it."""
    places = [f"runs_dir={folder}", f"data.source.cache_dir={folder}"]
    return [*places, "processes=1", "trainer.enable_progress_bar=false"]


def in_fresh_process(part: str, words: Sequence[str]) -> Profile:
    """``profiled`` in a process of its own."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(profiled, part, words).result()


def profiled(part: str, words: Sequence[str]) -> Profile:
    """Does one part of the work and says where the time went."""
    logging.getLogger("panoptic_occ").setLevel(logging.WARNING)
    clock = StageClock()
    with watched(clock), mock.patch.object(pipeline, "show"):  # its tables would stand among ours
        before = time.process_time()
        with clock.stage(ELSE):
            images = PARTS[part](list(words))
        processor = time.process_time() - before
    return Profile(part, images, dict(clock.seconds), dict(clock.background), processor, peak_mib())


@contextmanager
def watched(clock: StageClock) -> Iterator[None]:
    """Until it is left, what the commands do in this process counts for the stages of ``clock``."""
    with ExitStack() as stack:
        for owner, name, stage in LIBRARY:
            stack.enter_context(wrapped(clock, owner, name, stage))
        build, build_occlusion, load = pipeline.build_model, pipeline.build_occlusion, SampleLoader.__iter__

        def build_watched(*args: Any) -> PanopticFPN:
            model = build(*args)
            stack.enter_context(watched_model(clock, model))
            return model

        def build_occlusion_watched(*args: Any) -> OcclusionModel:  # stage 2 puts it in place of the model's own
            occlusion = build_occlusion(*args)
            stack.enter_context(wrapped(clock, occlusion, "loss", OCCLUSION))
            return occlusion

        def load_watched(loader: SampleLoader) -> Iterator[Any]:
            with clock.stage(LOADING):
                batches = load(loader)
            return iter(clock.timed(batches.__next__, LOADING), None)

        stack.enter_context(mock.patch.object(pipeline, "build_model", build_watched))
        stack.enter_context(mock.patch.object(pipeline, "build_occlusion", build_occlusion_watched))
        stack.enter_context(mock.patch.object(SampleLoader, "__iter__", load_watched))
        # Lightning runs the whole training step inside the optimiser's step; the stages in it count for themselves
        stack.callback(register_optimizer_step_pre_hook(lambda *_: clock.begin(OPTIMIZER)).remove)
        stack.callback(register_optimizer_step_post_hook(lambda *_: clock.end()).remove)
        yield


def train_base(words: list[str]) -> int:
    """Stage 1; returns how many images it saw."""
    return _fit("base", compose(words))


def train_occlusion(words: list[str]) -> int:
    """Stage 2 on the frozen base."""
    cfg = compose(words)
    run_folder(cfg, words).describe(cfg, build_data(cfg).categories)
    return _fit("occlusion", cfg)


def _fit(stage: str, cfg: DictConfig) -> int:
    data = build_data(cfg)
    model = pipeline.build_model(cfg, data.categories)
    schedule = build_schedule(cfg)
    if stage == "base":
        folder = base_folder(cfg)
        folder.describe(cfg, data.categories)
        fit_stage("base", model, data, schedule, folder, cfg)
    else:
        training.train_occlusion(cfg, model, data)
    return int(schedule.stage(stage, data.batch_size).steps * data.batch_size)


def evaluate(words: list[str]) -> int:
    """An evaluation with the network."""
    return _evaluate(words)


def evaluate_and_save(words: list[str]) -> int:
    """An evaluation with the network that stores its predictions."""
    return _evaluate(words, "save_predictions=true")


def evaluate_saved(words: list[str]) -> int:
    """An evaluation of the stored predictions."""
    return _evaluate(words, "saved=true")


def _evaluate(words: list[str], *more: str) -> int:
    words = [*words, *more, "force=true"]
    metrics = pipeline.evaluate(compose(words), words)
    images = metrics["images"]
    assert isinstance(images, int)
    return images


PARTS: dict[str, Callable[[list[str]], int]] = {
    "train, stage 1": train_base,
    "train, stage 2": train_occlusion,
    "evaluate": evaluate,
    "evaluate save_predictions=true": evaluate_and_save,
    "evaluate saved=true": evaluate_saved,
}


def peak_mib() -> float:
    """Highest resident memory of this process so far."""
    status = Path("/proc/self/status")
    if status.exists():  # unlike ru_maxrss, it does not count the process that started this one
        line = next(text for text in status.read_text(encoding="ascii").splitlines() if text.startswith("VmHWM"))
        return int(line.split()[1]) * 1024 / MIB
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / MIB if sys.platform == "darwin" else most * 1024 / MIB


def table(profiles: Sequence[Profile]) -> tuple[list[str], list[list[str]]]:
    """Header and rows: for every stage and part the milliseconds of an image and their share, then the totals."""
    rows = []
    for stage in (*ORDER, ELSE):
        cells = [_cell(profile, profile.stages.get(stage)) for profile in profiles]
        if any(cells):
            rows.append([stage, *cells])
    for stage in dict.fromkeys(name for profile in profiles for name in profile.background):
        rows.append([f"{stage}, meanwhile", *(_cell(profile, profile.background.get(stage)) for profile in profiles)])
    rows.append(["all, ms an image", *(f"{1000 * p.seconds / p.images:.1f}" for p in profiles)])
    rows.append(["of it computing", *(f"{1000 * p.processor / p.images:.1f}" for p in profiles)])
    rows.append(["images", *(str(p.images) for p in profiles)])
    rows.append(["highest memory, MiB", *(f"{p.peak_mib:.0f}" for p in profiles)])
    return ["stage", *(profile.part for profile in profiles)], rows


def _cell(profile: Profile, seconds: float | None) -> str:
    return "" if not seconds else f"{1000 * seconds / profile.images:.1f} ({seconds / profile.seconds:.0%})"


def to_markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The table and what it means."""
    return f"# Where the time goes\n\n{NOTE}\n\n{markdown_table([header, *rows])}"
