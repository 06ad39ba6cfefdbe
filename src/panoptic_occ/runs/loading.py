"""What finished stages have left: trained weights, and the categories they know."""

from __future__ import annotations

from omegaconf import DictConfig

from panoptic_occ.common.errors import CheckpointError
from panoptic_occ.common.files import read_json
from panoptic_occ.network.panoptic_fpn import PanopticFPN
from panoptic_occ.occlusion.base import OcclusionModel
from panoptic_occ.runs.build import build_occlusion
from panoptic_occ.runs.folders import RunFolder, base_folder, occlusion_folder, training_words
from panoptic_occ.runs.weights import load_weights
from panoptic_occ.structures.categories import Categories


def load_base(model: PanopticFPN, cfg: DictConfig) -> None:
    """Loads the final weights of the base, as far as it has any."""
    if model.base_learns():
        load_weights(base_folder(cfg).weights("base"), model.base_modules())


def load_occlusion(cfg: DictConfig, in_channels: int, categories: Categories) -> OcclusionModel:
    """The occlusion module of ``cfg`` with its trained weights; CheckpointError when it has not been trained."""
    occlusion = build_occlusion(cfg, in_channels, categories)
    if occlusion.trainable:
        weights = occlusion_folder(cfg).weights("occlusion")
        if not weights.exists():
            raise CheckpointError(
                f"{weights}: the file does not exist, occlusion={cfg.choices.occlusion} has not been trained on this "
                f"base; run: python -m panoptic_occ.train {' '.join(training_words(cfg))}"
            )
        load_weights(weights, {"occlusion": occlusion})
    return occlusion


def run_categories(folder: RunFolder) -> Categories:
    """The categories that a run was trained with; CheckpointError when the folder does not say."""
    file = folder.path / "categories.json"
    if not file.exists():
        raise CheckpointError(
            f"{file}: the file does not exist; point run= to the folder that train printed at its end"
        )
    return Categories.from_json(read_json(file), str(file))
