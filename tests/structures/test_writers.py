"""Panoptic maps in the forms of transformers and supervision."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from data.conftest import CATEGORIES
from panoptic_occ.fusion.engine import fuse
from panoptic_occ.fusion.policy import FusionPolicy
from panoptic_occ.structures.categories import Categories
from panoptic_occ.structures.instances import InstanceSet
from panoptic_occ.structures.masks import PairStats
from panoptic_occ.structures.panoptic_map import PanopticMap, Segment
from panoptic_occ.structures.relation import Relation

ANIMALS = Categories.from_json(CATEGORIES)  # labels: cat 0, dog 1, sky 2
SCENE = PanopticMap(
    torch.tensor([[1, 1, 2, 0], [3, 2, 2, 3]], dtype=torch.int32),
    (
        Segment(1, label=1, isthing=True, area=2, score=0.75, instance=0),
        Segment(2, label=0, isthing=True, area=3, score=0.5, instance=1),
        Segment(3, label=2, isthing=False, area=2),
    ),
)


def test_to_transformers_and_back() -> None:
    """Things and stuff that are read back and fused make the same map."""
    output = SCENE.to_transformers()
    assert output["segments_info"] == [
        {"id": 1, "label_id": 1, "was_fused": False, "isthing": True, "score": 0.75},
        {"id": 2, "label_id": 0, "was_fused": False, "isthing": True, "score": 0.5},
        {"id": 3, "label_id": 2, "was_fused": True, "isthing": False},
    ]
    things, stuff = InstanceSet.from_transformers_panoptic(output, ANIMALS)
    nothing = Relation(torch.zeros(2, 2), valid=torch.zeros(2, 2, dtype=torch.bool))
    fused = fuse(things, PairStats.of(things.masks), nothing, stuff, FusionPolicy(stuff_area=0), ANIMALS)
    assert torch.equal(fused.ids, SCENE.ids) and fused.segments == SCENE.segments


def test_to_supervision(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fields of ``Detections``; the real class is in test_foreign_packages.py."""
    monkeypatch.setitem(sys.modules, "supervision", SimpleNamespace(Detections=SimpleNamespace))
    detections = SCENE.to_supervision(ANIMALS)
    assert np.array_equal(detections.mask, [SCENE.ids.numpy() == number for number in (1, 2, 3)])
    assert detections.xyxy.tolist() == [[0, 0, 2, 1], [1, 0, 3, 2], [0, 1, 4, 2]]
    assert np.array_equal(detections.confidence, np.float32([0.75, 0.5, np.nan]), equal_nan=True)
    assert detections.class_id.tolist() == [1, 0, 2]
    columns = {name: column.tolist() for name, column in detections.data.items()}
    assert columns == {
        "segment_id": [1, 2, 3],
        "isthing": [True, True, False],
        "class_name": ["dog", "cat", "sky"],
    }
    annotation = PanopticMap(SCENE.ids, (Segment(3, label=2, isthing=False, area=2),)).to_supervision()
    assert annotation.confidence is None and "class_name" not in annotation.data
    void = PanopticMap(torch.zeros(2, 3), ()).to_supervision()
    assert void.mask.shape == (0, 2, 3) and void.xyxy.shape == (0, 4)


def test_without_supervision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(ImportError, match=r"to_supervision needs the package supervision .*pip install supervision"):
        SCENE.to_supervision()
