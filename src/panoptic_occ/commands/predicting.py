"""Panoptic maps of images without annotations."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from omegaconf import DictConfig
from PIL import Image
from rich.progress import track

from panoptic_occ.commands.evaluating import find_run
from panoptic_occ.common.errors import ConfigError, DataError
from panoptic_occ.common.files import atomic_path
from panoptic_occ.config.instantiate import safe_instantiate
from panoptic_occ.data.coco.images import read_rgb
from panoptic_occ.data.coco.panoptic_io import PanopticResultWriter, predictions_in
from panoptic_occ.fusion.engine import fuse
from panoptic_occ.fusion.erasing import StuffLabels
from panoptic_occ.occlusion.base import Context
from panoptic_occ.runs.build import build_model
from panoptic_occ.runs.loading import load_base, load_occlusion, run_categories
from panoptic_occ.structures.sample import Sample
from panoptic_occ.visuals.overlay import overlay

log = logging.getLogger(__name__)

ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".gif")


def predict(cfg: DictConfig, overrides: Sequence[str] = ()) -> Path:
    """Segments ``cfg.input`` into ``cfg.output``: panoptic.json, panoptic/*.png and overlays/*.png; returns the folder.

    panoptic.json lists the maps beside it, also after an interruption.  Raises ConfigError for a missing setting and a
    folder in use (see ``find_results``), and in the end one DataError for the images that cannot be read.
    """
    for key in ("input", "output"):
        if cfg[key] is None:
            raise ConfigError(f"'{key}' needs a value; add {key}=... to the command (see --help)")
    files, output, force = find_images(Path(cfg.input)), Path(cfg.output), bool(cfg.force)
    earlier = find_results(output, files, force)
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
    writer = PanopticResultWriter(output / "panoptic", output / "panoptic.json", categories)
    bad: list[str] = []
    done = 0
    try:
        with torch.inference_mode():
            for number, file in enumerate(track(files, description="predicting"), start=1):
                try:
                    image = torch.from_numpy(read_rgb(file, upright=True)).permute(2, 0, 1).contiguous()
                except DataError as error:
                    bad.append(str(error))
                    continue
                sample = Sample(image, number, file.name, (image.shape[1], image.shape[2]))
                (found,) = model.base_outputs([transform(sample, 0).to(device)], policy.conf_thr, requires)
                context = Context(image.to(device), semantic=found.semantic)
                relation = model.occlusion(found.instances, found.stats, context)
                stuff = StuffLabels(found.semantic).under(policy)
                panoptic = fuse(found.instances, found.stats, relation, stuff, policy)
                while earlier:
                    earlier.pop(0).unlink(missing_ok=True)
                # both appear together: the overlay tells a map of predict from those of other commands
                with atomic_path(output / "overlays" / f"{file.stem}.png") as temporary:
                    Image.fromarray(overlay(image, panoptic, categories)).save(temporary, "PNG")
                    writer.write(number, file.name, panoptic)
                done += 1
    finally:
        if done:
            writer.close()
    log.info("%d maps and overlays are in %s", done, output)
    if bad:
        rest = f"the maps of the other {done} are in {output}" if done else "nothing was written"
        raise DataError(f"{len(bad)} of {len(files)} images cannot be read; {rest}:\n  " + "\n  ".join(bad))
    return output


def find_results(output: Path, files: Sequence[Path], force: bool) -> list[Path]:
    """What an earlier predict left in ``output`` and ``force`` has replaced by the results of ``files``.

    Raises ConfigError when there is something without ``force``, and, in any case, for a file in the way that is not
    known to be a result of predict: a map of it has an overlay.
    """
    maps = predictions_in(output / "panoptic")
    pairs = [(path, output / "overlays" / path.relative_to(output / "panoptic")) for path in maps]
    earlier = [path for pair in pairs if pair[1].exists() for path in pair]
    listed = output / "panoptic.json"
    if earlier:
        earlier.insert(0, listed)  # removed first: no list is longer than its maps
    wanted = [output / kind / f"{file.stem}.png" for file in files for kind in ("panoptic", "overlays")]
    known, inputs = set(earlier), {file.resolve() for file in files}
    for path in (listed, *maps, *earlier, *wanted):
        if path.exists() and (path not in known or path.resolve() in inputs):
            raise ConfigError(
                f"{path}: is in the way, and is not known to be a result of predict that may be replaced; choose "
                "another output=, or move it away"
            )
    if earlier and not force:
        raise ConfigError(
            f"{output}: holds {len(earlier) // 2} maps of an earlier predict; choose another output=, or add "
            "force=true to replace them"
        )
    return earlier


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
