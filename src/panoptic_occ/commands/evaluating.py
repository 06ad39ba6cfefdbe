"""``evaluate``: a trained run, or a base made of annotations, with any orders and fusion policies."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import torch

from panoptic_occ.commands.sweeps import note
from panoptic_occ.common.background import InBackground
from panoptic_occ.common.distributed import broadcast_from_main, join, started_together
from panoptic_occ.common.errors import ConfigError
from panoptic_occ.data.coco.panoptic_io import check_map_names
from panoptic_occ.data.loading.datamodule import PanopticDataModule
from panoptic_occ.evaluation.evaluator import Evaluation
from panoptic_occ.evaluation.listeners import MapWriter, Pictures
from panoptic_occ.evaluation.report import scored_images, show, write_results
from panoptic_occ.evaluation.stored import (
    evaluate_stored,
    open_predictions,
    prediction_writer,
    recording_of,
    stored_channels,
)
from panoptic_occ.evaluation.variants import build_evaluation, content_of, load_variants, variants_of
from panoptic_occ.network.panoptic_fpn import PanopticFPN
from panoptic_occ.runs.folders import RunFolder, writing_in
from panoptic_occ.runs.loading import load_base, run_categories
from panoptic_occ.runs.plan import RunPlan, build_model, prepared_data
from panoptic_occ.runs.reuse import EvaluationFolder, check_same_run, made_from
from panoptic_occ.thing.oracle import RoiOracle
from panoptic_occ.training.callbacks.preemption import Preemption
from panoptic_occ.training.module import PanopticModule
from panoptic_occ.training.stage import clear_errors, make_trainer
from panoptic_occ.training.tracking import track_results

log = logging.getLogger(__name__)

PICTURES, FIXED_PICTURES = 6, 4  # in pictures.png, for trackers


def evaluate(plan: RunPlan) -> dict[str, object]:
    """Evaluates a trained run, or a base of annotations, which has no weights; returns the metrics.

    The run is the one of ``run=``, or that which the same words given to ``train`` would have made.  Results go to
    ``evaluations/`` in its folder, named by what differs from training; those of the same settings, weights, data and
    stored predictions are shown again.  With ``saved=true`` nothing of the base is built or loaded: its stored
    predictions are fused again.
    """
    if plan.debugging:
        raise ConfigError("trainer.fast_dev_run: only train tries itself; data.max_eval_images=N evaluates N images")
    plan = of_trained_run(plan)
    join_processes(plan)
    data = prepared_data(plan.data)
    check_categories(plan.folder, data)
    target = plan.folder.path / "evaluations" / evaluation_name(plan, data)
    note(run=str(target))
    content = broadcast_from_main(lambda: content_of(plan, data))
    earlier = EvaluationFolder(target, lambda: made_from(plan, content))
    results: Callable[[], dict[str, object] | None] = lambda: None if plan.force else earlier.results()  # noqa: E731
    if (done := broadcast_from_main(results)) is not None:
        return show_again(plan, target, done)
    check_maps(plan, data, target)
    with writing_in(target, plan.folder.path.absolute().parent, "the evaluation", busy="wait"):
        if (done := broadcast_from_main(results)) is not None:  # another process has just made them
            return show_again(plan, target, done)
        with earlier.filled(stores=plan.evaluation.save_predictions):
            if plan.evaluation.saved:
                metrics = evaluate_predictions(plan, data, target)
            else:
                model = build_model(plan, data.categories)
                check_evaluation(plan, model, data)
                metrics = evaluate_network(plan, model, data, target)
    show(plan, target, metrics)
    return metrics


def of_trained_run(plan: RunPlan) -> RunPlan:
    """``plan`` about the run that its words, or only those of the training, have made."""
    if plan.options["run"] is None:
        folders = [plan.folder, *plan.training_folders]
        plan = replace(plan, folder=next((folder for folder in folders if folder.config.exists()), folders[-1]))
        check_same_run(plan)
    return plan


def check_categories(folder: RunFolder, data: PanopticDataModule) -> None:
    """ConfigError when the data have other categories than those that ``folder`` was trained with, by id, by name, or
    by which are things."""
    if not folder.categories.exists():  # a base of annotations, which knows those of any data
        return
    parts = run_categories(folder), data.categories
    trained, evaluated = ({(c.id, c.name, c.isthing) for c in part.items} for part in parts)
    if differing := sorted(trained ^ evaluated):
        named = [f"{number} {name!r} ({'thing' if isthing else 'stuff'})" for number, name, isthing in differing]
        raise ConfigError(
            f"{data.eval_data.layout.panoptic_json}: its categories are not those that {folder.path} was trained "
            f"with; only one of the two has {', '.join(named[:6])}{', ...' if len(named) > 6 else ''}. Evaluate on "
            "data with the same ids, names, things and stuff, or train on these data (data.name=... gives them a base "
            "of their own)"
        )


def evaluation_name(plan: RunPlan, data: PanopticDataModule) -> str:
    """The folder of an evaluation: named by its words, and by the data where they are not the run's own."""
    if plan.evaluation.own_data:
        return plan.evaluation.name
    on = f"on-{plan.data_name}-{data.eval_data.fingerprint[:8]}"
    return on if plan.evaluation.name == "default" else f"{plan.evaluation.name}_{on}"


def join_processes(plan: RunPlan) -> None:
    """Connects the processes of this command, where something else has started several."""
    if started_together():
        join(make_trainer(plan, logger=False))


def check_evaluation(plan: RunPlan, model: PanopticFPN, data: PanopticDataModule) -> None:
    """ConfigError for what ``evaluate_network`` cannot do, before anything is trained or computed."""
    trainer = make_trainer(plan, logger=False)
    if plan.evaluation.save_predictions and plan.evaluation.oracle:
        raise ConfigError(
            f"save_predictions=true stores what the base sees, oracle={sorted(plan.evaluation.oracle)} replaces parts "
            "of it; leave one of the two out"
        )
    if plan.evaluation.save_predictions and trainer.world_size > 1:
        raise ConfigError("save_predictions=true: one process writes the files; add trainer.devices=1")
    with torch.random.fork_rng(devices=[]):
        channels = model.occlusion.in_channels
        untrained = {order.name: order.build(channels, data.categories) for order in plan.orders}
        annotations = data.eval_data.layout.instances_json
        build_evaluation(
            plan, variants_of(plan.orders, untrained, data.categories), data.categories, annotations=annotations
        )


def check_maps(plan: RunPlan, data: PanopticDataModule, target: Path) -> None:
    """DataError when ``save_maps`` could not give every image a map of its own below ``target``."""
    if plan.evaluation.save_maps:
        records = [data.eval_data.record(index) for index in range(data.num_eval_images)]
        names = {record.image_id: record.file_name for record in records}
        check_map_names(target / "panoptic", names, data.eval_data.layout.panoptic_json)


def evaluate_network(plan: RunPlan, model: PanopticFPN, data: PanopticDataModule, target: Path) -> dict[str, object]:
    """Evaluates ``model`` with all orders and writes metrics, tables and pictures into ``target``; returns the metrics.

    With ``save_predictions`` the predictions are stored too, and the maps are made from what is stored.
    """
    load_base(model, plan.base)
    channels = model.occlusion.in_channels
    variants = load_variants(plan, channels, data)
    annotations = data.eval_data.layout.instances_json
    evaluation = build_evaluation(plan, variants, data.categories, recording_of(plan), annotations)
    replaced = {"box", "class"} & plan.evaluation.oracle
    if replaced:
        model.thing.use_oracle(RoiOracle("box" in replaced, "class" in replaced))
    pictures = Pictures(data.categories, plan.method, PICTURES, FIXED_PICTURES)
    evaluation.listeners = (pictures,)
    trainer = make_trainer(plan, [Preemption()], logger=False)
    with ExitStack() as stack:
        if plan.evaluation.save_maps:
            evaluation.listeners += (stack.enter_context(map_writer(plan, evaluation, data, target)),)
        if plan.evaluation.save_predictions:
            place, data_folder = plan.evaluation.predictions, plan.base.folder.path.parent
            stack.enter_context(writing_in(place, data_folder, "the storing of predictions", busy="wait"))
            evaluation.listeners += (stack.enter_context(prediction_writer(plan, evaluation, data, channels)),)
        evaluation.listeners = (stack.enter_context(InBackground(evaluation.listeners)),)
        module = PanopticModule(model, "occlusion", plan.seed, evaluation=evaluation)
        with ExitStack() as scoring:  # at its end all is scored; the listeners may still work
            if not plan.evaluation.timing:
                module.scoring = scoring.enter_context(InBackground([module.score]))
            with clear_errors(target):
                trainer.test(module, datamodule=data, verbose=False)
        images = scored_images(evaluation, None if plan.debugging else data.num_eval_images)
    pictures.save(target / "pictures.png")
    metrics = write_results(target, evaluation, plan.method, images)
    track_results(plan, target, evaluation, pictures.fixed_sheets())
    return metrics


def evaluate_predictions(plan: RunPlan, data: PanopticDataModule, target: Path) -> dict[str, object]:
    """Evaluates the stored predictions of a run with all orders and writes metrics and tables into ``target``; returns
    the metrics."""
    if {"box", "class"} & plan.evaluation.oracle:
        raise ConfigError(
            f"oracle={sorted(plan.evaluation.oracle)}: masks in other boxes, or of other classes, need the network; "
            "set saved=false, or leave box and class out"
        )
    variants = load_variants(plan, stored_channels(plan), data)
    evaluation = build_evaluation(plan, variants, data.categories, annotations=data.eval_data.layout.instances_json)
    predictions = open_predictions(plan, evaluation, data)
    with ExitStack() as stack:
        if plan.evaluation.save_maps:
            evaluation.listeners += (stack.enter_context(map_writer(plan, evaluation, data, target)),)
        evaluate_stored(evaluation, predictions, data, plan.processes)
        images = scored_images(evaluation, data.num_eval_images)
    metrics = write_results(target, evaluation, plan.method, images)
    track_results(plan, target, evaluation)
    return metrics


def map_writer(plan: RunPlan, evaluation: Evaluation, data: PanopticDataModule, target: Path) -> MapWriter:
    """The writer of the maps of all evaluated images."""
    names = [data.eval_data.record(index).file_name for index in range(data.num_eval_images)]
    return MapWriter(evaluation, plan.method, target, data.categories, names)


def show_again(plan: RunPlan, folder: Path, metrics: dict[str, object]) -> dict[str, object]:
    """Shows results that were there before, and returns them."""
    log.info("%s is finished; showing its results (force=true repeats it)", folder)
    note(state="skipped")
    show(plan, folder, metrics)
    return metrics
