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

UNKNOWN: list[tuple[type[OcclusionModel], str, object, str]] = [
    (AppearanceOrder, "resolve", "sequentail", "did you mean 'sequential'?"),
    (AppearanceOrder, "mean", "median", "allowed: mask, uncontested"),
    (AppearanceOrder, "colors", "normalised", "did you mean 'normalized'?"),
    (AppearanceOrder, "tie_break", "rank", "allowed: index, score"),
    (AppearanceOrder, "nms", "boxes", "did you mean 'box'?"),
    (ScoreOrder, "nms", "boxes", "did you mean 'box'?"),
    (GroundTruthOrder, "rule", "dleta", "did you mean 'delta'?"),
    (GroundTruthOrder, "match", "boxes", "did you mean 'box'?"),
    (SpatialRanking, "conv", "gcn", "did you mean 'gcn7'?"),
    (SpatialRanking, "conflict", "instances", "did you mean 'instance'?"),
    (SpatialRanking, "init", "dirac", "allowed: identity, kaiming"),
    (SpatialRanking, "stride", 2, "allowed: 1, 4"),
    (SpatialRanking, "pool", "avarage", "did you mean 'average'?"),
    (SpatialRanking, "ranking", "add", "allowed: multiply, replace"),
    (SpatialRanking, "probability", "softmx", "did you mean 'softmax'?"),
    (OCFusion, "sym", "mean", "allowed: avg, raw"),
    (OCFusion, "gt_rule", "detla", "did you mean 'delta'?"),
    (SoftOcclusion, "sym", "mean", "allowed: avg, raw"),
    (SoftOcclusion, "gt_rule", "detla", "did you mean 'delta'?"),
    (SoftOcclusion, "label_prior", "tables", "did you mean 'table'?"),
    (RAP, "gt_rule", "deltas", "did you mean 'delta'?"),
    (RAP, "pair_mean", "annotation", "did you mean 'annotations'?"),
    (PixelArgmax, "reach", "boxes", "did you mean 'box'?"),
]
IMPOSSIBLE: list[tuple[type[OcclusionModel], dict[str, Any], str]] = [
    (AppearanceOrder, {"nms_thr": 50}, "occlusion.nms_thr=50: must be an IoU between 0 and 1"),
    (
        AppearanceOrder,
        {"setaside": "keep"},
        "setaside='keep' does not go with resolve=order; allowed: null, score, trans",
    ),
    (AppearanceOrder, {"resolve": "atoms", "setaside": "score"}, "setaside='score' does not go with resolve=atoms"),
    (ScoreOrder, {"nms_thr": 1.5}, "between 0 and 1"),
    (ClassPrior, {"prior_count": -1}, "prior_count=-1"),
    (OCFusion, {"pairs_per_image": 0}, "at least one pair"),
    (SoftOcclusion, {"pairs_per_image": 0}, "at least one pair"),
    (SoftOcclusion, {"inputs": ["mask", "features"]}, "did you mean 'feature'"),
    (SoftOcclusion, {"inputs": ["label"]}, "occlusion=class_prior"),
    (SoftOcclusion, {"inputs": []}, "'mask' or 'feature'"),
    (SoftOcclusion, {"sigma": 0.0}, "null switches"),
    (SoftOcclusion, {"sigma": float("inf")}, "occlusion=score"),
    (RAP, {"fcs": 3}, "occlusion.fcs=3: allowed: 1"),
    (RAP, {"pairs_per_image": 0}, "null takes all"),
    (PixelArgmax, {"relabel": 1.5}, "occlusion.relabel=1.5: must be a share"),
    (PixelArgmax, {"same_class_thr": -1}, "occlusion.same_class_thr=-1: must be a share"),
]


@pytest.mark.parametrize(("order", "key", "value", "hint"), UNKNOWN)
def test_unknown_words_are_answered(order: type[OcclusionModel], key: str, value: object, hint: str) -> None:
    with pytest.raises(
        ConfigError, match=re.escape(f"occlusion.{key}={value!r} is unknown; ") + f".*{re.escape(hint)}"
    ):
        order(**{key: value}, **COMMON)  # type: ignore[arg-type]


@pytest.mark.parametrize(("order", "options", "message"), IMPOSSIBLE)
def test_impossible_values_are_answered(order: type[OcclusionModel], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        order(**options, **COMMON)
