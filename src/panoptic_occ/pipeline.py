"""What the commands do: train the stages that are missing, evaluate, and write the results."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytorch_lightning as pl
from omegaconf import DictConfig
from rich.console import Console

from panoptic_occ.build import (
    Variant,
    build_data,
    build_evaluation,
    build_model,
    build_occlusion,
    build_schedule,
    grid_variants,
)
from panoptic_occ.callbacks.preemption import Preemption
from panoptic_occ.categories import Categories
from panoptic_occ.config import sibling
from panoptic_occ.data.datamodule import PanopticDataModule
from panoptic_occ.data.order_baselines import class_table
from panoptic_occ.errors import CheckpointError, ConfigError
from panoptic_occ.evaluation import Evaluation
from panoptic_occ.files import read_json
from panoptic_occ.locking import work_lock
from panoptic_occ.metrics.table import to_text
from panoptic_occ.model import PanopticFPN
from panoptic_occ.module import PanopticModule
from panoptic_occ.occlusion.base import OcclusionModel
from panoptic_occ.processes import agreed, join, leads, started_together
from panoptic_occ.results import InBackground, MapWriter, Pictures, read_rows, summary, write_results
from panoptic_occ.runs import (
    RunFolder,
    base_folder,
    check_same_run,
    compares,
    finished,
    load_run_config,
    occlusion_folder,
    overrides_name,
    run_folder,
)
from panoptic_occ.saved import (
    evaluate_stored,
    open_predictions,
    prediction_writer,
    recording_of,
    save_command,
    stored_channels,
)
from panoptic_occ.stages import fit_stage, make_trainer
from panoptic_occ.sweeps import note
from panoptic_occ.thing.oracle import RoiOracle
from panoptic_occ.weights import load_weights

log = logging.getLogger(__name__)

PICTURES = 6
OF_EVALUATION = ("fusion", "tta", "policies", "grid", "oracle", "details", "timing")


def train(cfg: DictConfig, overrides: Sequence[str] = ()) -> dict[str, object]:
    """Trains what is missing of the run that ``cfg`` describes, evaluates it, and returns its metrics.

    ``overrides``: the words of the command line, which name the run folder where they differ from the presets.
    """
    folder = run_folder(cfg, overrides)
    if started_together():
        join(make_trainer(cfg, logger=False))
    if (done := results_of(folder, cfg)) is None:
        with work_lock(folder.path, "the run", busy="refuse"):
            if cfg.force and leads():
                folder.clear()
            if (done := results_of(folder, cfg)) is None:  # else another run has just made them
                return _train(cfg, folder)
    log.info("%s is finished; showing its results (force=true repeats it)", folder.path)
    note(run=str(folder.path), state="skipped")
    show(cfg, folder.path, done)
    return done


def results_of(folder: RunFolder, cfg: DictConfig) -> dict[str, object] | None:
    """The results in ``folder`` if they are what ``cfg`` asks for; ConfigError when it holds another run."""
    if cfg.force:
        return None
    agreed(lambda: check_same_run(folder, cfg))
    done = agreed(lambda: finished(folder))
    return done if done is not None and compares(folder, cfg) else None  # else: evaluated with fewer orders


def _train(cfg: DictConfig, folder: RunFolder) -> dict[str, object]:
    """Trains what is missing and evaluates; the folder of the run is ours."""
    note(run=str(folder.path))
    folder.metrics.unlink(missing_ok=True)
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    data = build_data(cfg)
    model = build_model(cfg, data.categories)
    train_base(cfg, model, data)
    folder.describe(cfg, data.categories)
    for name in compared(cfg):
        train_occlusion(own_config(cfg, name), model, data)
    metrics = evaluate_model(cfg, model, data, folder.path)
    show(cfg, folder.path, metrics)
    return metrics


def train_base(cfg: DictConfig, model: PanopticFPN, data: PanopticDataModule) -> None:
    """Trains the base of ``cfg``, unless that has been done; while another run trains it, this one waits."""
    base, schedule = base_folder(cfg), build_schedule(cfg)
    if agreed(base.weights("base").exists):
        return
    if cfg.joint and model.occlusion.learns_from != "annotations":
        raise ConfigError(
            f"joint=true: occlusion={cfg.choices.occlusion} learns from the proposals of a finished base, so it "
            "cannot train together with it; use joint=false, or a method that learns from annotations (oanet)"
        )
    with work_lock(base.path, "the training of the base", busy="wait", progress=base.progress):
        if agreed(base.weights("base").exists):  # by the run that we waited for
            return
        base.describe(cfg, data.categories)
        fit_stage("joint" if cfg.joint else "base", model, data, schedule, base, cfg)


def evaluate(cfg: DictConfig, overrides: Sequence[str] = ()) -> dict[str, object]:
    """Evaluates a trained run, or an oracle base that has no weights, with any order and fusion policy.

    The run is ``cfg.run``, or the one that the same words given to ``train`` would have made.  Results go to
    ``evaluations/`` in the run's folder, named by what differs from training.  With ``cfg.saved`` nothing of the base
    is built or loaded: its stored predictions are fused again.
    """
    cfg, folder = find_run(cfg, overrides)
    data = build_data(cfg)
    target = folder.path / "evaluations" / (overrides_name(overrides) or "default")
    note(run=str(target))
    if cfg.saved:
        metrics = evaluate_saved(cfg, data, target, save_command(overrides))
    else:
        metrics = evaluate_model(cfg, build_model(cfg, data.categories), data, target, cfg.save_maps)
    show(cfg, target, metrics)
    return metrics


def find_run(cfg: DictConfig, overrides: Sequence[str]) -> tuple[DictConfig, RunFolder]:
    """The configuration and the folder of the run that a command is about."""
    if cfg.run is not None:
        folder = RunFolder(Path(cfg.run))
        return load_run_config(folder.path, cfg, overrides), folder
    folder = run_folder(cfg, overrides)
    if not folder.config.exists():  # not trained with these settings of the evaluation, but perhaps without them
        folder = run_folder(cfg, [word for word in overrides if not word.lstrip("+").startswith(OF_EVALUATION)])
    check_same_run(folder, cfg)
    return cfg, folder


def train_occlusion(cfg: DictConfig, model: PanopticFPN, data: PanopticDataModule) -> None:
    """Trains the occlusion module of ``cfg`` on the finished base, unless that has been done or there is no need."""
    folder = occlusion_folder(cfg)
    if agreed(folder.weights("occlusion").exists):
        return
    model.occlusion = build_occlusion(cfg, model.occlusion.in_channels, data.categories)
    if not model.occlusion.trainable:
        return
    with work_lock(folder.path, "the training of the occlusion module", busy="wait", progress=folder.progress):
        if agreed(folder.weights("occlusion").exists):  # by the run that we waited for
            return
        load_base(model, cfg)
        folder.describe(cfg, data.categories)
        fit_stage("occlusion", model, data, build_schedule(cfg), folder, cfg)


def load_base(model: PanopticFPN, cfg: DictConfig) -> None:
    """Loads the final weights of the base, as far as it has any."""
    if any(True for part in model.base_modules().values() for _ in part.parameters()):
        load_weights(base_folder(cfg).weights("base"), model.base_modules())


def load_occlusion(cfg: DictConfig, in_channels: int, categories: Categories) -> OcclusionModel:
    """The occlusion module of ``cfg`` with its trained weights; CheckpointError when it has not been trained."""
    occlusion = build_occlusion(cfg, in_channels, categories)
    if occlusion.trainable:
        weights = occlusion_folder(cfg).weights("occlusion")
        if not weights.exists():
            raise CheckpointError(
                f"{weights}: the file does not exist, occlusion={cfg.choices.occlusion} has not been trained on this "
                f"base; run: python -m panoptic_occ.train {' '.join(cfg.command)}"
            )
        load_weights(weights, {"occlusion": occlusion})
    return occlusion


def compared(cfg: DictConfig) -> list[str]:
    """The occlusion methods of an evaluation: those of ``cfg.compare`` and the run's own; the ceiling is read last."""
    method = str(cfg.choices.occlusion)
    names = list(dict.fromkeys([*map(str, cfg.compare), method]))
    return sorted(names, key=lambda name: name == "ground_truth")


def own_config(cfg: DictConfig, name: str) -> DictConfig:
    """``cfg`` with the occlusion method ``name``."""
    return cfg if name == cfg.choices.occlusion else sibling(cfg, name)


def evaluate_model(
    cfg: DictConfig, model: PanopticFPN, data: PanopticDataModule, target: Path, save_maps: bool = False
) -> dict[str, object]:
    """Evaluates ``model`` and writes metrics, tables and pictures into ``target``; returns the metrics.

    With ``cfg.save_predictions`` the predictions are stored too, and the maps are made from what is stored.
    """
    method = str(cfg.choices.occlusion)
    load_base(model, cfg)
    methods = {name: own_config(cfg, name) for name in compared(cfg)}
    channels = model.occlusion.in_channels
    evaluation = build_evaluation(
        cfg, load_variants(cfg, methods, channels, data), data.categories, recording=recording_of(cfg)
    )
    if {"box", "class"} & set(cfg.oracle):
        model.thing.use_oracle(RoiOracle("box" in cfg.oracle, "class" in cfg.oracle))
    pictures = Pictures(data.categories, method, PICTURES)
    evaluation.listeners = (pictures,)
    trainer = make_trainer(cfg, [Preemption()], logger=False)
    with ExitStack() as stack:
        if save_maps:
            evaluation.listeners += (stack.enter_context(map_writer(evaluation, method, target, data.categories)),)
        if cfg.save_predictions:
            if cfg.oracle:
                raise ConfigError(
                    f"save_predictions=true stores what the base sees, oracle={list(cfg.oracle)} replaces parts of it; "
                    "leave one of the two out"
                )
            if trainer.world_size > 1:
                raise ConfigError("save_predictions=true: one process writes the files; add trainer.devices=1")
            evaluation.listeners += (stack.enter_context(prediction_writer(cfg, methods, evaluation, data, channels)),)
        evaluation.listeners = (stack.enter_context(InBackground(evaluation.listeners)),)
        module = PanopticModule(model, "occlusion", cfg.seed, evaluation=evaluation)
        trainer.test(module, datamodule=data, verbose=False)
    pictures.save(target / "pictures.png")
    return write_results(target, evaluation, method, data.num_eval_images)


def evaluate_saved(cfg: DictConfig, data: PanopticDataModule, target: Path, advice: str) -> dict[str, object]:
    """Evaluates the stored predictions of a run and writes metrics and tables into ``target``; returns the metrics.

    ``advice``: how to store them, the end of the error messages.
    """
    if {"box", "class"} & set(cfg.oracle):
        raise ConfigError(
            f"oracle={list(cfg.oracle)}: masks in other boxes, or of other classes, need the network; set saved=false, "
            "or leave box and class out"
        )
    method = str(cfg.choices.occlusion)
    methods = {name: own_config(cfg, name) for name in compared(cfg)}
    variants = load_variants(cfg, methods, stored_channels(cfg, advice), data)
    evaluation = build_evaluation(cfg, variants, data.categories)
    predictions = open_predictions(cfg, methods, evaluation, data, advice)
    with ExitStack() as stack:
        if cfg.save_maps:
            evaluation.listeners += (stack.enter_context(map_writer(evaluation, method, target, data.categories)),)
        evaluate_stored(evaluation, predictions, data, cfg.processes)
    return write_results(target, evaluation, method, data.num_eval_images)


def load_variants(
    cfg: DictConfig, methods: Mapping[str, DictConfig], in_channels: int, data: PanopticDataModule
) -> list[Variant]:
    """The compared relations with their weights, the run's own one at every point of the grid."""
    variants = []
    for name, own in methods.items():
        trained = load_occlusion(own, in_channels, data.categories)
        variants += grid_variants(cfg, trained, data.categories) if own is cfg else [Variant(name, trained)]
    counting = [variant.model for variant in variants if "class_table" in variant.model.requires]
    if counting:
        table = class_table(data.train_data)
        for model in counting:
            model.use_class_table(table)
    return variants


def map_writer(evaluation: Evaluation, method: str, target: Path, categories: Categories) -> MapWriter:
    """Writes the maps of the run's method; ConfigError when there is not exactly one map of it an image."""
    if method not in evaluation.quality:
        raise ConfigError(
            "save_maps=true writes one map an image, but grid or policies make several; leave grid and policies out "
            "and choose the values with fusion.* and occlusion.*"
        )
    return MapWriter(target, categories, method)


def run_categories(folder: RunFolder) -> Categories:
    """The categories that a run was trained with; CheckpointError when the folder does not say."""
    file = folder.path / "categories.json"
    if not file.exists():
        raise CheckpointError(
            f"{file}: the file does not exist; point run= to the folder that train printed at its end"
        )
    return Categories.from_json(read_json(file), str(file))


def show(cfg: DictConfig, folder: Path, metrics: dict[str, object]) -> None:
    """Prints the table of a run and where everything lies."""
    console = Console()
    title = f"{cfg.choices.data}: {metrics['images']} held-out images, seed {cfg.seed}, percent"
    console.print(to_text(summary(read_rows(metrics), title)), markup=False, highlight=False, soft_wrap=True)
    console.print(f"Results, per-class tables and pictures: {folder}", soft_wrap=True, markup=False)
