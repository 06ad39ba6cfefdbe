"""What trackers (CSV files, TensorBoard, W&B) learn: one tracker run for each base, occlusion module and run.

The loggers are Lightning's, one for each entry of ``cfg.logger``.  What such an entry leaves open (``???``) and what
depends on the folder of the work is filled in here, so that a tracker of your own needs a YAML file only.
"""

from __future__ import annotations

import logging
import math
import os
import secrets
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pytorch_lightning.loggers import Logger, TensorBoardLogger, WandbLogger

from panoptic_occ.common.distributed import is_main_process
from panoptic_occ.common.errors import ConfigError, did_you_mean
from panoptic_occ.common.files import write_text
from panoptic_occ.config.instantiate import Blueprint
from panoptic_occ.evaluation.evaluator import Evaluation
from panoptic_occ.metrics.pq.scores import ClassScores, PQResult
from panoptic_occ.runs.plan import OrderPlan, RunPlan

log = logging.getLogger(__name__)

MODES = ("online", "offline", "disabled")
MISSING = "???"  # a value that the folder of the work gives


@contextmanager
def tracked(plan: RunPlan, order: OrderPlan, folder: Path, job: str, start: str = "") -> Iterator[list[Logger]]:
    """The loggers of ``plan`` for one start of ``job`` (base, occlusion, joint or evaluation) in ``folder``.

    They know the whole configuration, that of ``order``; only the first process has any.  At the end the W&B run is
    closed, as failed after an exception, so that the next job of this process gets one of its own.
    """
    try:
        loggers = _loggers(plan, folder, job, start) if is_main_process() else []
        for logger in loggers:
            logger.log_hyperparams({**order.hyperparameters, "stage": job, "folder": str(folder)})
        yield loggers
    except BaseException:
        with suppress(Exception):  # a signal may have ended W&B's own process too, and what happened first matters
            _close_wandb(1)
        raise
    _close_wandb(0)


def track_results(
    plan: RunPlan, folder: Path, evaluation: Evaluation, pictures: Mapping[str, Image.Image] | None = None
) -> None:
    """Tells all trackers the results of an evaluation; ``pictures``: sheets of fixed images by name."""
    rows, quality = evaluation.rows(), evaluation.results()  # by all processes together
    with tracked(plan, plan.order, folder, "evaluation") as loggers:
        for logger in loggers:
            logger.log_metrics(summary_scalars(evaluation, rows, plan.method), step=0)
            if isinstance(logger, WandbLogger):
                logger.log_table("orders", *_order_table(evaluation, rows))
                logger.log_table("per_class", ["entry", *ClassScores._fields[1:]], _class_rows(quality))
                if pictures:
                    logger.log_image("overlays", list(pictures.values()), caption=list(pictures))
            elif isinstance(logger, TensorBoardLogger):
                for name, picture in (pictures or {}).items():
                    logger.experiment.add_image(f"overlays/{name}", np.asarray(picture), 0, dataformats="HWC")
            logger.finalize("success")


def summary_scalars(evaluation: Evaluation, rows: Mapping[str, Mapping[str, float]], method: str) -> dict[str, float]:
    """The numbers of an evaluation by name: ``<order>/PQ``, ..., and under plain names those of the method itself.

    ``PQ``, ``PQ_th``, ...: of the method, where it is best if there are several policies or a grid; ``gain`` and
    ``gain_th``: its PQ over score order.  The points of a grid are rows of a table and have no names of their own.
    """
    named = {entry.name: rows[entry.name] for entry in evaluation.entries if not entry.values}
    of_method = (rows[entry.name] for entry in evaluation.entries if entry.order == method)
    best = dict(max(of_method, key=lambda row: row["PQ"]))
    if "score" in named:
        best |= {f"gain{group}": best[f"PQ{group}"] - named["score"][f"PQ{group}"] for group in ("", "_th")}
    scalars = best | {f"{name}/{key}": value for name, row in named.items() for key, value in row.items()}
    return {name: value for name, value in scalars.items() if not math.isnan(value)}


def usable_mode(mode: str | None) -> str:
    """``mode``, the one in which W&B is to run, but offline where online would wait for a key or a server.

    None: online if there is a key.  ConfigError for an unknown mode.
    """
    if mode is not None and mode not in MODES:
        raise ConfigError(f"logger.wandb.mode={mode} (or WANDB_MODE) is unknown; {did_you_mean(mode, MODES)}")
    if mode in ("offline", "disabled"):
        return mode
    import wandb

    try:
        if wandb.login(prompt=False, verify=True):  # asks the server, WANDB_HTTP_TIMEOUT seconds at most (10)
            return "online"
    except wandb.errors.Error as error:
        return _offline(str(error))
    return "offline" if mode is None else _offline("there is no API key; `wandb login` stores one")


def _loggers(plan: RunPlan, folder: Path, job: str, start: str) -> list[Logger]:
    facts: dict[str, Callable[[], str]] = {
        "save_dir": lambda: str(folder),
        "version": lambda: f"{job}_{start}" if start else job,
        "job_type": lambda: job,
        "group": lambda: _group(plan),
        "name": lambda: os.path.relpath(folder, plan.runs_dir),
        "id": lambda: _run_id(folder),
    }
    loggers = []
    for blueprint in plan.loggers.values():
        given = {key: fact() for key, fact in facts.items() if blueprint.settings.get(key) == MISSING}
        is_wandb = str(blueprint.settings.get("_target_")).endswith(".WandbLogger")
        loggers.append(_make_wandb(blueprint, **given) if is_wandb else blueprint.build(**given))
    return loggers


def _make_wandb(blueprint: Blueprint[Logger], **given: str) -> Logger:
    """The logger of W&B with its run begun, offline where nobody takes it."""
    import wandb

    logger: Any = blueprint.build(**given, mode=usable_mode(blueprint.settings["mode"]))
    try:
        _ = logger.experiment
    except wandb.errors.Error as error:
        wandb.teardown()  # its service keeps the id of the run for itself
        logger = blueprint.build(**given, mode=_offline(str(error)))
    return logger


def _offline(reason: str) -> str:
    log.warning("W&B: %s; going on offline, `wandb sync` uploads the run later", " ".join(reason.split()))
    return "offline"


def _close_wandb(exit_code: int) -> None:
    if wandb := sys.modules.get("wandb"):
        wandb.finish(exit_code=exit_code)


def _run_id(folder: Path) -> str:
    """The id of the folder's W&B run: drawn once, so that a restart continues it and no two folders share one."""
    file = folder / "wandb_id"
    if not file.exists():
        write_text(file, secrets.token_hex(4))
    return file.read_text(encoding="utf-8")


def _group(plan: RunPlan) -> str:
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    if HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN:
        return Path(HydraConfig.get().sweep.dir).name
    return plan.data_name


def _order_table(
    evaluation: Evaluation, rows: Mapping[str, Mapping[str, float]]
) -> tuple[list[str], list[list[object]]]:
    """Columns and rows: every order with the settings of its point of a grid, and all its numbers."""
    keys = list(dict.fromkeys(key for entry in evaluation.entries for key in entry.values))
    names = list(next(iter(rows.values())))
    data: list[list[object]] = []
    for entry in evaluation.entries:
        numbers = (rows[entry.name][name] for name in names)
        values = (None if math.isnan(number) else number for number in numbers)
        data.append([entry.name, entry.order, *(entry.values.get(key) for key in keys), *values])
    return ["entry", "order", *keys, *names], data


def _class_rows(quality: Mapping[str, PQResult]) -> list[list[object]]:
    """The scores of every class with every order."""
    return [[order, *scores[1:]] for order, result in quality.items() for scores in result.per_class]
