"""What finished stages have left: trained weights, and the categories they know."""

from __future__ import annotations

from collections.abc import Callable

from panoptic_occ.common.errors import CheckpointError
from panoptic_occ.common.files import read_json
from panoptic_occ.network.panoptic_fpn import PanopticFPN
from panoptic_occ.occlusion.base import OcclusionModel
from panoptic_occ.runs.folders import RunFolder
from panoptic_occ.runs.plan import BasePlan, OrderPlan
from panoptic_occ.runs.weights import WEIGHTS, load_weights, saved_digest
from panoptic_occ.structures.categories import Categories


def load_base(model: PanopticFPN, base: BasePlan) -> None:
    """Loads the final weights of the base, as far as it has any."""
    if model.base_learns():
        load_weights(base.folder.weights("base"), model.base_modules())


def base_digest(base: BasePlan) -> str | None:
    """The digest of the weights of the base; None where there are none, or only predictions were kept."""
    weights = base.folder.weights("base")
    return saved_digest(weights) if weights.exists() else None


def trained_on(order: OrderPlan, base: BasePlan, data: Callable[[], str | None] | None = None) -> bool:
    """Whether the module of ``order`` has been trained, and on the weights that the base has now.

    ``data``: the fingerprint of the training data, which a module on a base without weights is tied to.
    """
    weights = order.folder.weights("occlusion")
    if not weights.exists():
        return False
    header, digest = WEIGHTS.read_header(weights), base_digest(base)
    if digest is not None:
        return digest == header.get("base")
    trained = header.get("data")
    return data is None or not trained or data() in (None, trained)


def load_order(order: OrderPlan, base: BasePlan, in_channels: int, categories: Categories) -> OcclusionModel:
    """The module of an order with its trained weights; CheckpointError when it has not been trained, or on another base
    than it is now."""
    module = order.build(in_channels, categories)
    if module.trainable:
        weights = order.folder.weights("occlusion")
        if not weights.exists():
            raise CheckpointError(
                f"{weights}: the file does not exist, occlusion={order.name} has not been trained on this base; run: "
                f"{order.command}"
            )
        if not trained_on(order, base):
            raise CheckpointError(
                f"{weights}: occlusion={order.name} was trained on other weights of the base than those in "
                f"{base.folder.weights('base')}, which was trained again since; to train it on these, run: "
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
