"""What the commands do: train the stages that are missing, evaluate, and write the results."""

from __future__ import annotations

import logging
from pathlib import Path

import pytorch_lightning as pl
from omegaconf import DictConfig, open_dict
from rich.console import Console

from panoptic_occ.build import build_data, build_evaluation, build_model, build_schedule
from panoptic_occ.data.datamodule import PanopticDataModule
from panoptic_occ.data.panoptic_io import PanopticResultWriter
from panoptic_occ.evaluation import Listener
from panoptic_occ.metrics.table import to_text
from panoptic_occ.model import PanopticFPN
from panoptic_occ.module import PanopticModule
from panoptic_occ.results import Pictures, read_rows, summary, write_results
from panoptic_occ.runs import RunFolder, base_folder, check_same_run, finished
from panoptic_occ.stages import fit_stage, make_trainer
from panoptic_occ.weights import load_weights

log = logging.getLogger(__name__)

PICTURES = 8


def train(cfg: DictConfig) -> dict[str, object]:
    """Trains what is missing of the run that ``cfg`` describes, evaluates it, and returns its metrics."""
    folder, base = RunFolder(Path(cfg.run_dir)), base_folder(cfg)
    if cfg.force:
        folder.clear()
    check_same_run(folder, cfg)
    done = finished(folder)
    if done is not None:
        log.info("%s is finished; showing its results (force=true repeats it)", folder.path)
        show(cfg, folder, done)
        return done
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    data = build_data(cfg)
    model = build_model(cfg, data.categories)
    schedule = build_schedule(cfg)
    with open_dict(cfg):
        cfg.base_dir = str(base.path)
    if not base.weights("base").exists():
        base.describe(cfg)
        fit_stage("base", model, data, schedule, base, cfg)
    folder.describe(cfg)
    load_weights(base.weights("base"), model.base_modules())
    if model.occlusion.trainable:
        if not folder.weights("occlusion").exists():
            fit_stage("occlusion", model, data, schedule, folder, cfg)
        load_weights(folder.weights("occlusion"), {"occlusion": model.occlusion})
    metrics = evaluate(cfg, model, data, folder)
    show(cfg, folder, metrics)
    return metrics


def evaluate(
    cfg: DictConfig, model: PanopticFPN, data: PanopticDataModule, folder: RunFolder, save_maps: bool = False
) -> dict[str, object]:
    """Evaluates ``model`` and writes metrics, tables and pictures into ``folder``; returns the metrics."""
    method = str(cfg.choices.occlusion)
    pictures = Pictures(data.categories, method, PICTURES)
    listeners: list[Listener] = [pictures]
    writer = None
    if save_maps:
        writer = PanopticResultWriter(folder.path / "panoptic", folder.path / "panoptic.json", data.categories)
        listeners.append(lambda sample, output, maps: writer.write(sample.image_id, sample.file_name, maps[method]))
    evaluation = build_evaluation(cfg, model, data.categories, tuple(listeners))
    model.requires_grad_(False)
    module = PanopticModule(model, "occlusion", cfg.seed, evaluation=evaluation)
    trainer = make_trainer(cfg, logger=False)
    trainer.test(module, datamodule=data, verbose=False)
    if writer is not None:
        writer.close()
    pictures.save(folder.path / "pictures.png")
    return write_results(folder.path, evaluation, method, len(data.eval_data))


def show(cfg: DictConfig, folder: RunFolder, metrics: dict[str, object]) -> None:
    """Prints the table of a run and where everything lies."""
    console = Console()
    title = f"{cfg.choices.data}: {metrics['images']} held-out images, seed {cfg.seed}, percent"
    console.print(to_text(summary(read_rows(metrics), title)), markup=False, highlight=False)
    console.print(f"Results, per-class tables and pictures: {folder.path}", soft_wrap=True, markup=False)
