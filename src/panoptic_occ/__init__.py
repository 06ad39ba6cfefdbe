"""Occlusion-aware panoptic segmentation: who lies in front of whom, and what that does to panoptic quality.

The names below are imported on first use, so that ``import panoptic_occ`` costs next to nothing and brings in neither
Lightning nor Hydra.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from panoptic_occ.data.coco.panoptic_io import PanopticResultWriter as PanopticResultWriter
    from panoptic_occ.evaluation.predictor import Prediction as Prediction
    from panoptic_occ.evaluation.predictor import Predictor as Predictor
    from panoptic_occ.evaluation.predictor import load as load
    from panoptic_occ.fusion.engine import fuse as fuse
    from panoptic_occ.fusion.policy import FusionPolicy as FusionPolicy
    from panoptic_occ.metrics.pq.metric import PanopticQuality as PanopticQuality
    from panoptic_occ.metrics.pq.metric import panoptic_quality as panoptic_quality
    from panoptic_occ.occlusion.base import OcclusionModel as OcclusionModel
    from panoptic_occ.ops.ground_truth_relation import ground_truth_relation as ground_truth_relation
    from panoptic_occ.structures.categories import Categories as Categories
    from panoptic_occ.structures.categories import Category as Category
    from panoptic_occ.structures.instances import InstanceSet as InstanceSet
    from panoptic_occ.structures.masks import MaskCrops as MaskCrops
    from panoptic_occ.structures.masks import PairStats as PairStats
    from panoptic_occ.structures.panoptic_map import PanopticMap as PanopticMap
    from panoptic_occ.structures.panoptic_map import Segment as Segment
    from panoptic_occ.structures.relation import GroundTruthRelation as GroundTruthRelation
    from panoptic_occ.structures.relation import Relation as Relation
    from panoptic_occ.structures.sample import Sample as Sample
    from panoptic_occ.structures.target import Target as Target
    from panoptic_occ.visuals.overlay import overlay as overlay

__version__ = "0.1.0"

_HOMES = {
    "Categories": "structures.categories",
    "Category": "structures.categories",
    "FusionPolicy": "fusion.policy",
    "GroundTruthRelation": "structures.relation",
    "InstanceSet": "structures.instances",
    "MaskCrops": "structures.masks",
    "OcclusionModel": "occlusion.base",
    "PairStats": "structures.masks",
    "PanopticMap": "structures.panoptic_map",
    "PanopticQuality": "metrics.pq.metric",
    "PanopticResultWriter": "data.coco.panoptic_io",
    "Relation": "structures.relation",
    "Sample": "structures.sample",
    "Segment": "structures.panoptic_map",
    "Target": "structures.target",
    "Prediction": "evaluation.predictor",
    "Predictor": "evaluation.predictor",
    "fuse": "fusion.engine",
    "ground_truth_relation": "ops.ground_truth_relation",
    "load": "evaluation.predictor",
    "overlay": "visuals.overlay",
    "panoptic_quality": "metrics.pq.metric",
}

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'; it offers {', '.join(sorted(__all__))}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
