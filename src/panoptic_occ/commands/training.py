"""``train``: the stages that are missing, then the evaluation of the run."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from contextlib import suppress

import pytorch_lightning as pl

from panoptic_occ.commands.evaluating import (
    check_categories,
    check_evaluation,
    check_maps,
    evaluate_network,
    join_processes,
    show_again,
)
from panoptic_occ.commands.sweeps import note
from panoptic_occ.common.distributed import broadcast_from_main, is_main_process
from panoptic_occ.common.errors import ConfigError, DataError
from panoptic_occ.data.loading.datamodule import PanopticDataModule
from panoptic_occ.evaluation.report import show
from panoptic_occ.evaluation.variants import content_of
from panoptic_occ.network.panoptic_fpn import PanopticFPN
from panoptic_occ.runs.folders import finished, writing_in
from panoptic_occ.runs.loading import base_digest, load_base, trained_on
from panoptic_occ.runs.plan import OrderPlan, RunPlan, build_model, prepared_data
from panoptic_occ.runs.reuse import EvaluationFolder, check_same_run, made_from, results_match
from panoptic_occ.runs.weights import check_data
from panoptic_occ.training.stage import fit_stage

log = logging.getLogger(__name__)


def train(plan: RunPlan) -> dict[str, object]:
    """Trains what is missing of the run of ``plan``, evaluates it, and returns its metrics.

    Results that are there already are shown again.  With ``trainer.fast_dev_run`` nothing is kept.  ConfigError when
    the folder holds another run, or when another process works on it.
    """
    join_processes(plan)
    if not plan.debugging:
        note(run=str(plan.folder.path))
    data = prepared_data(plan.data)
    broadcast_from_main(lambda: _check_trained(plan, data))
    content = broadcast_from_main(lambda: content_of(plan, data))
    if plan.debugging:
        try:
            metrics = _trained_and_evaluated(plan, data, content)
        finally:
            if is_main_process():
                shutil.rmtree(plan.runs_dir, ignore_errors=True)
        note(state="tried")
        log.info("trainer.fast_dev_run: every part has worked; nothing is kept")
        return metrics
    if (done := _results(plan, data, content)) is not None:
        return show_again(plan, plan.folder.path, done)
    with writing_in(plan.folder.path, plan.folder.path.absolute().parent, "the run", busy="refuse"):
        if (done := _results(plan, data, content)) is not None:  # another process has just made them
            return show_again(plan, plan.folder.path, done)
        metrics = _trained_and_evaluated(plan, data, content)
    show(plan, plan.folder.path, metrics)
    return metrics


def _check_trained(plan: RunPlan, data: PanopticDataModule) -> None:
    """ConfigError when the base or a module has been trained with other categories than those of ``data``."""
    base = plan.base.folder
    for folder in (*([base] if base.weights("base").exists() else []), *(o.folder for o in _trained_orders(plan))):
        check_categories(folder, data)


def _trained_orders(plan: RunPlan) -> list[OrderPlan]:
    """The orders whose modules have weights."""
    return [order for order in plan.orders if order.folder.weights("occlusion").exists()]


def _trained_and_evaluated(plan: RunPlan, data: PanopticDataModule, content: Mapping[str, str]) -> dict[str, object]:
    pl.seed_everything(plan.seed, workers=True, verbose=False)
    model = build_model(plan, data.categories)
    check_evaluation(plan, model, data)
    check_maps(plan, data, plan.folder.path)
    train_base(plan, model, data)
    for order in plan.orders:
        train_order(plan, order, model, data)
    results = EvaluationFolder(plan.folder.path, lambda: made_from(plan, content))
    with results.filled(stores=plan.evaluation.save_predictions):
        plan.folder.describe(plan.order.config, data.categories)
        return evaluate_network(plan, model, data, plan.folder.path)


def train_base(plan: RunPlan, model: PanopticFPN, data: PanopticDataModule) -> None:
    """Trains the base, unless that has been done; while another run trains it, this one waits.  A base that is made of
    the annotations has nothing to train."""
    base = plan.base
    if not model.base_learns() and not base.joint:
        return
    weights = base.folder.weights("base")
    if broadcast_from_main(weights.exists):
        broadcast_from_main(lambda: check_data(weights, data.source.fingerprint()))
        return
    if base.joint and model.occlusion.learns_from != "annotations":
        raise ConfigError(
            f"joint=true: occlusion={plan.method} learns from the proposals of a finished base, so it "
            "cannot train together with it; use joint=false, or a method that learns from annotations (oanet)"
        )
    place, what = base.folder.path, "the training of the base"
    with writing_in(place, place.parent, what, busy="wait", progress=base.folder.progress):
        if broadcast_from_main(weights.exists):  # by the run that we waited for
            return
        data.setup("fit")  # the splits go together, before anything is written
        base.folder.describe(plan.order.config, data.categories)
        fit_stage("joint" if base.joint else "base", model, data, plan, plan.order)


def train_order(plan: RunPlan, order: OrderPlan, model: PanopticFPN, data: PanopticDataModule) -> None:
    """Trains the module of an order on the finished base, unless that has been done or there is nothing to train.

    On a base that was trained again since, it is trained again too; so it is on other data, where the base is made of
    their annotations.
    """
    folder, weights = order.folder, order.folder.weights("occlusion")
    if broadcast_from_main(lambda: trained_on(order, plan.base, data.source.fingerprint)):
        return
    model.occlusion = order.build(model.occlusion.in_channels, data.categories)
    if not model.occlusion.trainable:
        return
    data_folder, stage = plan.base.folder.path.parent, "the training of the occlusion module"
    with writing_in(folder.path, data_folder, stage, busy="wait", progress=folder.progress):
        # by the run that we waited for
        if broadcast_from_main(lambda: trained_on(order, plan.base, data.source.fingerprint)):
            return
        if is_main_process() and weights.exists():
            what = "weights of the base than it has" if base_digest(plan.base) else "data than those of data.root are"
            log.warning("%s: trained on other %s now; it is trained again", weights, what)
        data.setup("fit")
        load_base(model, plan.base)
        folder.describe(order.config, data.categories)
        fit_stage("occlusion", model, data, plan, order)


def _results(plan: RunPlan, data: PanopticDataModule, content: Mapping[str, str]) -> dict[str, object] | None:
    """The results in the folder of the run if they are what ``plan`` asks for, made from the data and weights as they
    are now; ConfigError when it holds another run, or when the base was trained on other data."""

    def read() -> dict[str, object] | None:
        check_same_run(plan)
        if (done := finished(plan.folder)) is None:
            return None
        weights = plan.base.folder.weights("base")
        with suppress(DataError):  # results can also be shown where the training split is not
            if weights.exists():
                check_data(weights, data.source.fingerprint())
            elif not all(trained_on(order, plan.base, data.source.fingerprint) for order in _trained_orders(plan)):
                return None
        return done if results_match(plan, content) else None  # else evaluated again

    return None if plan.force else broadcast_from_main(read)
