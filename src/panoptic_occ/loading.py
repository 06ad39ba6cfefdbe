"""What finished stages have left: trained weights, and the categories they know."""

from __future__ import annotations

from collections.abc import Mapping

from omegaconf import DictConfig

from panoptic_occ.build import Variant, build_occlusion, variants_of
from panoptic_occ.categories import Categories
from panoptic_occ.data.datamodule import PanopticDataModule
from panoptic_occ.data.order_baselines import class_table
from panoptic_occ.errors import CheckpointError
from panoptic_occ.files import read_json
from panoptic_occ.model import PanopticFPN
from panoptic_occ.occlusion.base import OcclusionModel
from panoptic_occ.runs.folders import RunFolder, base_folder, occlusion_folder, training_words
from panoptic_occ.runs.weights import load_weights


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


def load_variants(
    cfg: DictConfig, methods: Mapping[str, DictConfig], in_channels: int, data: PanopticDataModule
) -> list[Variant]:
    """The compared relations with their weights, the run's own one at every point of the grid."""
    trained = {name: load_occlusion(own, in_channels, data.categories) for name, own in methods.items()}
    variants = variants_of(cfg, trained, data.categories)
    counting = [variant.model for variant in variants if "class_table" in variant.model.requires]
    if counting:
        table = class_table(data.train_data)
        for model in counting:
            model.use_class_table(table)
    return variants


def run_categories(folder: RunFolder) -> Categories:
    """The categories that a run was trained with; CheckpointError when the folder does not say."""
    file = folder.path / "categories.json"
    if not file.exists():
        raise CheckpointError(
            f"{file}: the file does not exist; point run= to the folder that train printed at its end"
        )
    return Categories.from_json(read_json(file), str(file))
