"""What the commands do: train the stages that are missing, evaluate, and write the results."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

import pytorch_lightning as pl
from omegaconf import DictConfig

from panoptic_occ.commands.evaluating import check_evaluation, compared_configs, evaluate_model, show_again
from panoptic_occ.commands.sweeps import note
from panoptic_occ.common.distributed import broadcast_from_main, is_main_process, join, started_together
from panoptic_occ.common.errors import ConfigError
from panoptic_occ.data.loading.datamodule import PanopticDataModule
from panoptic_occ.evaluation.report import show
from panoptic_occ.network.panoptic_fpn import PanopticFPN
from panoptic_occ.runs.build import build_data, build_model, build_occlusion
from panoptic_occ.runs.folders import (
    RunFolder,
    base_folder,
    check_same_run,
    finished,
    occlusion_folder,
    run_folder,
)
from panoptic_occ.runs.loading import load_base
from panoptic_occ.runs.locking import work_lock
from panoptic_occ.runs.reuse import answers
from panoptic_occ.runs.weights import check_annotations
from panoptic_occ.training.recipe import build_schedule
from panoptic_occ.training.stage import fit_stage, make_trainer


def train(cfg: DictConfig, overrides: Sequence[str] = ()) -> dict[str, object]:
    """Trains what is missing of the run that ``cfg`` describes, evaluates it, and returns its metrics.

    ``overrides``: the words of the command line, which name the run folder where they differ from the presets.
    """
    folder = run_folder(cfg, overrides)
    if started_together():
        join(make_trainer(cfg, logger=False))
    if (done := results_of(folder, cfg)) is None:
        with work_lock(folder.path, "the run", busy="refuse"):
            if (done := results_of(folder, cfg)) is None:  # else another run has just made them
                return _train(cfg, folder)
    note(run=str(folder.path))
    return show_again(cfg, folder.path, done)


def results_of(folder: RunFolder, cfg: DictConfig) -> dict[str, object] | None:
    """The results in ``folder`` if they are what ``cfg`` asks for; ConfigError when it holds another run."""
    if cfg.force:
        return None
    broadcast_from_main(lambda: check_same_run(folder, cfg))
    done = broadcast_from_main(lambda: finished(folder))
    return done if done is not None and answers(folder.config, cfg) else None  # else: to be evaluated again


def _train(cfg: DictConfig, folder: RunFolder) -> dict[str, object]:
    """Trains what is missing and evaluates; the folder of the run is ours."""
    note(run=str(folder.path))
    orders = compared_configs(cfg)
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    data = build_data(cfg)
    model = build_model(cfg, data.categories)
    check_evaluation(cfg, orders, model, data)
    train_base(cfg, model, data)
    for own in orders.values():
        train_occlusion(own, model, data)
    with folder.redone() if is_main_process() else nullcontext():
        folder.describe(cfg, data.categories)
        metrics = evaluate_model(cfg, orders, model, data, folder.path)
    show(cfg, folder.path, metrics)
    return metrics


def train_base(cfg: DictConfig, model: PanopticFPN, data: PanopticDataModule) -> None:
    """Trains the base of ``cfg``, unless that has been done; while another run trains it, this one waits.  A base that
    is made of the annotations has nothing to train."""
    if not model.base_learns() and not cfg.joint:
        return
    base, schedule = base_folder(cfg), build_schedule(cfg)
    if broadcast_from_main(base.weights("base").exists):
        broadcast_from_main(lambda: check_annotations(base.weights("base"), data.source.fingerprint()))
        return
    if cfg.joint and model.occlusion.learns_from != "annotations":
        raise ConfigError(
            f"joint=true: occlusion={cfg.choices.occlusion} learns from the proposals of a finished base, so it "
            "cannot train together with it; use joint=false, or a method that learns from annotations (oanet)"
        )
    with work_lock(base.path, "the training of the base", busy="wait", progress=base.progress):
        if broadcast_from_main(base.weights("base").exists):  # by the run that we waited for
            return
        base.describe(cfg, data.categories)
        fit_stage("joint" if cfg.joint else "base", model, data, schedule, base, cfg)


def train_occlusion(cfg: DictConfig, model: PanopticFPN, data: PanopticDataModule) -> None:
    """Trains the occlusion module of ``cfg`` on the finished base, unless that has been done or there is no need."""
    folder = occlusion_folder(cfg)
    if broadcast_from_main(folder.weights("occlusion").exists):
        return
    model.occlusion = build_occlusion(cfg, model.occlusion.in_channels, data.categories)
    if not model.occlusion.trainable:
        return
    with work_lock(folder.path, "the training of the occlusion module", busy="wait", progress=folder.progress):
        if broadcast_from_main(folder.weights("occlusion").exists):  # by the run that we waited for
            return
        load_base(model, cfg)
        folder.describe(cfg, data.categories)
        fit_stage("occlusion", model, data, build_schedule(cfg), folder, cfg)
