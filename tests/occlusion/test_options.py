"""Settings of the orders that cannot be: every error names the key, the value and what is allowed."""

from __future__ import annotations

import re
from typing import Any

import pytest

from helpers.toy_orders import COMMON
from panoptic_occ.common.errors import ConfigError
from panoptic_occ.occlusion.banet import AppearanceOrder
from panoptic_occ.occlusion.base import OcclusionModel
from panoptic_occ.occlusion.baselines.class_prior import ClassPrior
from panoptic_occ.occlusion.baselines.ground_truth import GroundTruthOrder
from panoptic_occ.occlusion.baselines.score import ScoreOrder
from panoptic_occ.occlusion.oanet import SpatialRanking
from panoptic_occ.occlusion.ocfusion import OCFusion
from panoptic_occ.occlusion.rap import RAP
from panoptic_occ.occlusion.refine import SoftOcclusion
from panoptic_occ.occlusion.upsnet import PixelArgmax

EXCLUDED: list[tuple[type[OcclusionModel], str, object, str]] = [
    (AppearanceOrder, "resolve", "sequentail", "did you mean 'sequential'?"),
    (AppearanceOrder, "mean", "median", "allowed: mask, uncontested"),
    (AppearanceOrder, "colors", "normalised", "did you mean 'normalized'?"),
    (AppearanceOrder, "tie_break", "rank", "allowed: score, index"),
    (AppearanceOrder, "nms", "boxes", "did you mean 'box'?"),
    (ScoreOrder, "nms", "boxes", "did you mean 'box'?"),
    (GroundTruthOrder, "rule", "dleta", "did you mean 'delta'?"),
    (GroundTruthOrder, "match", "boxes", "did you mean 'box'?"),
    (SpatialRanking, "conv", "gcn", "did you mean 'gcn7'?"),
    (SpatialRanking, "conflict", "instances", "did you mean 'instance'?"),
    (SpatialRanking, "init", "dirac", "allowed: kaiming, identity"),
    (SpatialRanking, "stride", 2, "allowed: 1, 4"),
    (SpatialRanking, "pool", "avarage", "did you mean 'average'?"),
    (SpatialRanking, "ranking", "add", "allowed: replace, multiply"),
    (SpatialRanking, "probability", "softmx", "did you mean 'softmax'?"),
    (OCFusion, "sym", "mean", "allowed: raw, avg"),
    (OCFusion, "gt_rule", "detla", "did you mean 'delta'?"),
    (SoftOcclusion, "sym", "mean", "allowed: raw, avg"),
    (SoftOcclusion, "gt_rule", "detla", "did you mean 'delta'?"),
    (SoftOcclusion, "label_prior", "tables", "did you mean 'table'?"),
    (RAP, "gt_rule", "deltas", "did you mean 'delta'?"),
    (RAP, "pair_mean", "annotation", "did you mean 'annotations'?"),
    (PixelArgmax, "reach", "boxes", "did you mean 'box'?"),
    (AppearanceOrder, "nms_thr", 50, "allowed: a number, 0 to 1"),
    (ScoreOrder, "nms_thr", 1.5, "allowed: a number, 0 to 1"),
    (ClassPrior, "prior_count", -1, "allowed: a number, 0 or more"),
    (OCFusion, "sig_ratio", 2, "allowed: a number, 0 to 1"),
    (OCFusion, "pairs_per_image", 0, "allowed: a whole number, 1 or more"),
    (SoftOcclusion, "pairs_per_image", 0, "allowed: a whole number, 1 or more"),
    (SoftOcclusion, "inputs", ["mask", "features"], "allowed: a list, each mask, feature, label"),
    (SoftOcclusion, "sigma", 0.0, "allowed: a number, above 0, or null"),
    (SoftOcclusion, "sigma", float("inf"), "allowed: a number, above 0, or null"),
    (RAP, "fcs", 3, "allowed: 1, 2"),
    (RAP, "pairs_per_image", 0, "allowed: a whole number, 1 or more, or null"),
    (PixelArgmax, "relabel", 1.5, "allowed: a number, 0 to 1, or null"),
    (PixelArgmax, "same_class_thr", -1, "allowed: a number, 0 to 1, or null"),
]
IMPOSSIBLE: list[tuple[type[OcclusionModel], dict[str, Any], str]] = [
    (
        AppearanceOrder,
        {"setaside": "keep"},
        "setaside='keep' does not go with resolve=order; allowed: null, score, trans",
    ),
    (AppearanceOrder, {"resolve": "atoms", "setaside": "score"}, "setaside='score' does not go with resolve=atoms"),
    (SoftOcclusion, {"inputs": ["label"]}, "occlusion=class_prior"),
    (SoftOcclusion, {"inputs": []}, "'mask' or 'feature'"),
]


@pytest.mark.parametrize(("order", "key", "value", "hint"), EXCLUDED)
def test_excluded_values_are_answered(order: type[OcclusionModel], key: str, value: object, hint: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"occlusion.{key}={value}: ") + f".*{re.escape(hint)}"):
        order(**{key: value}, **COMMON)  # type: ignore[arg-type]


@pytest.mark.parametrize(("order", "options", "message"), IMPOSSIBLE)
def test_impossible_values_are_answered(order: type[OcclusionModel], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        order(**options, **COMMON)
