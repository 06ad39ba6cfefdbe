"""Entries of an evaluation, and annotations as what the network says."""

from __future__ import annotations

import torch

from panoptic_occ.evaluation.evaluator import Entry
from panoptic_occ.fusion.policy import FusionPolicy
from panoptic_occ.occlusion.baselines.area import AreaOrder
from panoptic_occ.occlusion.baselines.ground_truth import GroundTruthOrder
from panoptic_occ.occlusion.baselines.score import ScoreOrder
from panoptic_occ.structures.base_output import BaseOutput
from panoptic_occ.structures.masks import PairStats
from panoptic_occ.structures.sample import Sample
from panoptic_occ.structures.semantic_map import VOID_LABEL, SemanticMap
from panoptic_occ.testing import toy_categories, toy_detections

PARTS = {"in_channels": 4, "categories": toy_categories()}
ORDERS = {"score": ScoreOrder, "area": AreaOrder, "ground_truth": GroundTruthOrder}


def entries_of(policy: FusionPolicy) -> list[Entry]:
    """Three orders with one policy."""
    return [Entry(name, name, order(**PARTS, sig_ratio=0.0), policy) for name, order in ORDERS.items()]


def perfect(sample: Sample) -> BaseOutput:
    """The annotations as detections, and the annotated stuff."""
    instances = toy_detections(sample.annotations, sample.image_id)
    semantic = sample.annotations.semantic()
    stuff = torch.where(semantic < toy_categories().num_things, VOID_LABEL, semantic)
    return BaseOutput(instances, PairStats.of(instances.masks), SemanticMap(stuff))
