"""What finished stages have left: trained weights, and the categories they know."""

from __future__ import annotations

from panoptic_occ.common.errors import CheckpointError
from panoptic_occ.common.files import read_json
from panoptic_occ.network.panoptic_fpn import PanopticFPN
from panoptic_occ.occlusion.base import OcclusionModel
from panoptic_occ.runs.folders import RunFolder
from panoptic_occ.runs.plan import BasePlan, OrderPlan
from panoptic_occ.runs.weights import load_weights
from panoptic_occ.structures.categories import Categories


def load_base(model: PanopticFPN, base: BasePlan) -> None:
    """Loads the final weights of the base, as far as it has any."""
    if model.base_learns():
        load_weights(base.folder.weights("base"), model.base_modules())


def load_order(order: OrderPlan, in_channels: int, categories: Categories) -> OcclusionModel:
    """The module of an order with its trained weights; CheckpointError when it has not been trained."""
    module = order.build(in_channels, categories)
    if module.trainable:
        weights = order.folder.weights("occlusion")
        if not weights.exists():
            raise CheckpointError(
                f"{weights}: the file does not exist, occlusion={order.name} has not been trained on this base; run: "
                f"{order.command}"
            )
        load_weights(weights, {"occlusion": module})
    return module


def run_categories(folder: RunFolder) -> Categories:
    """The categories that a run was trained with; CheckpointError when the folder does not say."""
    file = folder.categories
    if not file.exists():
        raise CheckpointError(
            f"{file}: the file does not exist; point run= to the folder that train printed at its end"
        )
    return Categories.from_json(read_json(file), str(file))
