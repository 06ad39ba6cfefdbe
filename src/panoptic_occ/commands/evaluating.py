"""What the commands do: train the stages that are missing, evaluate, and write the results."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import torch
from omegaconf import DictConfig

from panoptic_occ.commands.sweeps import note
from panoptic_occ.common.background import InBackground
from panoptic_occ.common.distributed import broadcast_from_main, join, started_together
from panoptic_occ.common.errors import ConfigError
from panoptic_occ.config.compose import sibling
from panoptic_occ.data.loading.datamodule import PanopticDataModule
from panoptic_occ.evaluation.listeners import MapWriter, Pictures
from panoptic_occ.evaluation.report import show, write_results
from panoptic_occ.evaluation.stored import (
    evaluate_stored,
    open_predictions,
    prediction_writer,
    recording_of,
    save_command,
    stored_channels,
)
from panoptic_occ.evaluation.variants import build_evaluation, load_variants, variants_of
from panoptic_occ.network.panoptic_fpn import PanopticFPN
from panoptic_occ.runs.build import build_data, build_model, build_occlusion
from panoptic_occ.runs.folders import (
    OF_EVALUATION,
    RunFolder,
    check_same_run,
    load_run_config,
    overrides_name,
    predictions_folder,
    run_folder,
)
from panoptic_occ.runs.loading import load_base
from panoptic_occ.runs.locking import work_lock
from panoptic_occ.runs.reuse import EvaluationFolder, made_from
from panoptic_occ.thing.oracle import RoiOracle
from panoptic_occ.training.callbacks.preemption import Preemption
from panoptic_occ.training.module import PanopticModule
from panoptic_occ.training.stage import clear_errors, make_trainer
from panoptic_occ.training.tracking import track_results

log = logging.getLogger(__name__)


PICTURES, FIXED_PICTURES = 6, 4  # in pictures.png, for trackers


def evaluate(cfg: DictConfig, overrides: Sequence[str] = ()) -> dict[str, object]:
    """Evaluates a trained run, or an oracle base that has no weights, with any order and fusion policy.

    The run is ``cfg.run``, or the one that the same words given to ``train`` would have made.  Results go to
    ``evaluations/`` in the run's folder, named by what differs from training; those of the same settings, weights and
    stored predictions are shown again.  With ``cfg.saved`` nothing of the base is built or loaded: its stored
    predictions are fused again.
    """
    cfg, folder = find_run(cfg, overrides)
    if started_together():
        join(make_trainer(cfg, logger=False))
    data, orders = build_data(cfg), compared_configs(cfg)
    target = folder.path / "evaluations" / (overrides_name(overrides) or "default")
    note(run=str(target))

    earlier = EvaluationFolder(target, lambda: made_from(cfg, orders, data.eval_data.fingerprint))

    def results() -> dict[str, object] | None:
        return None if cfg.force else earlier.results()

    if (done := broadcast_from_main(results)) is not None:
        return show_again(cfg, target, done)
    with work_lock(target, "the evaluation", busy="wait"):
        if (done := broadcast_from_main(results)) is not None:  # another process has just made them
            return show_again(cfg, target, done)
        with earlier.filled(stores=cfg.save_predictions):
            if cfg.saved:
                metrics = evaluate_saved(cfg, orders, data, target, save_command(overrides))
            else:
                model = build_model(cfg, data.categories)
                check_evaluation(cfg, orders, model, data)
                metrics = evaluate_model(cfg, orders, model, data, target, cfg.save_maps)
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


def compared(cfg: DictConfig) -> list[str]:
    """The occlusion methods of an evaluation: those of ``cfg.compare`` and the run's own; the ceiling is read last."""
    method = str(cfg.choices.occlusion)
    names = list(dict.fromkeys([*map(str, cfg.compare), method]))
    return sorted(names, key=lambda name: name == "ground_truth")


def own_config(cfg: DictConfig, name: str) -> DictConfig:
    """``cfg`` with the occlusion method ``name``."""
    return cfg if name == cfg.choices.occlusion else sibling(cfg, name)


def compared_configs(cfg: DictConfig) -> dict[str, DictConfig]:
    """The configurations of the ``compared`` occlusion methods, by name."""
    return {name: own_config(cfg, name) for name in compared(cfg)}


def check_evaluation(
    cfg: DictConfig, orders: Mapping[str, DictConfig], model: PanopticFPN, data: PanopticDataModule
) -> None:
    """ConfigError for what ``evaluate_model`` cannot do, before anything is trained or computed."""
    trainer = make_trainer(cfg, logger=False)
    if cfg.save_predictions and cfg.oracle:
        raise ConfigError(
            f"save_predictions=true stores what the base sees, oracle={list(cfg.oracle)} replaces parts of it; "
            "leave one of the two out"
        )
    if cfg.save_predictions and trainer.world_size > 1:
        raise ConfigError("save_predictions=true: one process writes the files; add trainer.devices=1")
    with torch.random.fork_rng(devices=[]):
        channels = model.occlusion.in_channels
        untrained = {name: build_occlusion(own, channels, data.categories) for name, own in orders.items()}
        build_evaluation(cfg, variants_of(cfg, untrained, data.categories), data.categories)


def evaluate_model(
    cfg: DictConfig,
    orders: Mapping[str, DictConfig],
    model: PanopticFPN,
    data: PanopticDataModule,
    target: Path,
    save_maps: bool = False,
) -> dict[str, object]:
    """Evaluates ``model`` with all ``orders`` and writes metrics, tables and pictures into ``target``; returns the
    metrics.

    With ``cfg.save_predictions`` the predictions are stored too, and the maps are made from what is stored.
    """
    method = str(cfg.choices.occlusion)
    load_base(model, cfg)
    channels = model.occlusion.in_channels
    variants = load_variants(cfg, orders, channels, data)
    annotations = data.eval_data.layout.instances_json
    evaluation = build_evaluation(cfg, variants, data.categories, recording_of(cfg), annotations)
    if {"box", "class"} & set(cfg.oracle):
        model.thing.use_oracle(RoiOracle("box" in cfg.oracle, "class" in cfg.oracle))
    pictures = Pictures(data.categories, method, PICTURES, FIXED_PICTURES)
    evaluation.listeners = (pictures,)
    trainer = make_trainer(cfg, [Preemption()], logger=False)
    with ExitStack() as stack:
        if save_maps:
            evaluation.listeners += (stack.enter_context(MapWriter(evaluation, method, target, data.categories)),)
        if cfg.save_predictions:
            stack.enter_context(work_lock(predictions_folder(cfg), "the storing of predictions", busy="wait"))
            evaluation.listeners += (stack.enter_context(prediction_writer(cfg, orders, evaluation, data, channels)),)
        evaluation.listeners = (stack.enter_context(InBackground(evaluation.listeners)),)
        module = PanopticModule(model, "occlusion", cfg.seed, evaluation=evaluation)
        if not cfg.timing:  # in the end first this one has seen everything, then the listeners
            module.scoring = stack.enter_context(InBackground([module.score]))
        with clear_errors(target):
            trainer.test(module, datamodule=data, verbose=False)
    pictures.save(target / "pictures.png")
    metrics = write_results(target, evaluation, method, data.num_eval_images)
    track_results(cfg, target, evaluation, method, pictures.fixed_sheets())
    return metrics


def evaluate_saved(
    cfg: DictConfig, orders: Mapping[str, DictConfig], data: PanopticDataModule, target: Path, advice: str
) -> dict[str, object]:
    """Evaluates the stored predictions of a run with all ``orders`` and writes metrics and tables into ``target``;
    returns the metrics.

    ``advice``: how to store them, the end of the error messages.
    """
    if {"box", "class"} & set(cfg.oracle):
        raise ConfigError(
            f"oracle={list(cfg.oracle)}: masks in other boxes, or of other classes, need the network; set saved=false, "
            "or leave box and class out"
        )
    method = str(cfg.choices.occlusion)
    variants = load_variants(cfg, orders, stored_channels(cfg, advice), data)
    evaluation = build_evaluation(cfg, variants, data.categories, annotations=data.eval_data.layout.instances_json)
    predictions = open_predictions(cfg, orders, evaluation, data, advice)
    with ExitStack() as stack:
        if cfg.save_maps:
            evaluation.listeners += (stack.enter_context(MapWriter(evaluation, method, target, data.categories)),)
        evaluate_stored(evaluation, predictions, data, cfg.processes)
    metrics = write_results(target, evaluation, method, data.num_eval_images)
    track_results(cfg, target, evaluation, method)
    return metrics


def show_again(cfg: DictConfig, folder: Path, metrics: dict[str, object]) -> dict[str, object]:
    """Shows results that were there before, and returns them."""
    log.info("%s is finished; showing its results (force=true repeats it)", folder)
    note(state="skipped")
    show(cfg, folder, metrics)
    return metrics
