"""Panoptic maps of images without annotations."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from omegaconf import DictConfig
from PIL import Image, ImageOps
from rich.progress import track

from panoptic_occ.build import build_model
from panoptic_occ.data.panoptic_io import PanopticResultWriter
from panoptic_occ.errors import ConfigError, DataError
from panoptic_occ.files import atomic_path
from panoptic_occ.fusion.engine import fuse
from panoptic_occ.fusion.erasing import StuffLabels
from panoptic_occ.instantiate import safe_instantiate
from panoptic_occ.loading import load_base, load_occlusion, run_categories
from panoptic_occ.pipeline import find_run
from panoptic_occ.structures import Context, Sample
from panoptic_occ.visuals.overlay import overlay

log = logging.getLogger(__name__)

ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".gif")


def predict(cfg: DictConfig, overrides: Sequence[str] = ()) -> Path:
    """Segments ``cfg.input`` into ``cfg.output``: panoptic.json, panoptic/*.png and overlays/*.png; returns the folder.

    Raises ConfigError for a missing setting, DataError for an image that cannot be read.
    """
    for key in ("input", "output"):
        if cfg[key] is None:
            raise ConfigError(f"'{key}' needs a value; add {key}=... to the command (see --help)")
    files, output = find_images(Path(cfg.input)), Path(cfg.output)
    cfg, folder = find_run(cfg, overrides)
    categories = run_categories(folder)
    model = build_model(cfg, categories)
    load_base(model, cfg)
    model.occlusion = load_occlusion(cfg, model.occlusion.in_channels, categories)
    if "target" in model.occlusion.requires:
        raise ConfigError(
            f"occlusion={cfg.choices.occlusion} reads annotations, and these images have none; choose another"
        )
    if "class_table" in model.occlusion.requires:
        raise ConfigError(
            f"occlusion={cfg.choices.occlusion} counts the pairs of a training set, and predict reads none; choose "
            "another, such as occlusion=area"
        )
    device = torch.device("cuda" if cfg.trainer.accelerator != "cpu" and torch.cuda.is_available() else "cpu")
    model.to(device).eval()
    transform = safe_instantiate(cfg.data.eval_transform)
    policy = safe_instantiate(cfg.fusion)
    requires = model.occlusion.requires | policy.requires
    with (
        PanopticResultWriter(output / "panoptic", output / "panoptic.json", categories) as writer,
        torch.inference_mode(),
    ):
        for number, file in enumerate(track(files, description="predicting"), start=1):
            image = read_rgb(file)
            sample = Sample(image, number, file.name, (image.shape[1], image.shape[2]))
            (found,) = model.base_outputs([transform(sample, 0).to(device)], policy.conf_thr, requires)
            context = Context(image.to(device), semantic=found.semantic)
            relation = model.occlusion(found.instances, found.stats, context)
            panoptic = fuse(found.instances, found.stats, relation, StuffLabels(found.semantic).under(policy), policy)
            writer.write(number, file.name, panoptic)
            with atomic_path(output / "overlays" / f"{file.stem}.png") as temporary:
                Image.fromarray(overlay(image, panoptic, categories)).save(temporary, "PNG")
    log.info("%d maps and overlays are in %s", len(files), output)
    return output


def find_images(path: Path) -> list[Path]:
    """The image itself, or all images of a folder by name; DataError when there is none, or two share a name."""
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise DataError(f"{path}: input= does not exist; give an image or a folder of images")
    files = sorted(p for p in path.iterdir() if p.suffix.lower() in ENDINGS)
    if not files:
        raise DataError(f"{path}: no image in this folder; allowed endings: {', '.join(ENDINGS)}")
    stems: dict[str, Path] = {}
    for file in files:
        if file.stem in stems:
            raise DataError(f"{file}: its result would overwrite that of {stems[file.stem]}; rename one of them")
        stems[file.stem] = file
    return files


def read_rgb(file: Path) -> torch.Tensor:
    """(3,H,W) uint8 RGB, turned upright as its EXIF says; DataError when the file is no readable image."""
    try:
        with Image.open(file) as image:
            pixels = np.array(ImageOps.exif_transpose(image).convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{file}: cannot be read as an image ({error}); it is damaged or of another kind") from None
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()
