"""RAP's way to count right orders: against a literal fusion over dense maps, and by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.ops import box_iou

from helpers.orders import relation, truth
from panoptic_occ.fusion.engine import fuse
from panoptic_occ.fusion.policy import FusionPolicy
from panoptic_occ.metrics.order.relation_accuracy import CanvasAccuracy, canvas_counts
from panoptic_occ.ops.matching import best_boxes
from panoptic_occ.structures.instances import InstanceSet
from panoptic_occ.structures.masks import MaskCrops, PairStats
from panoptic_occ.structures.panoptic_map import InstanceRecord
from panoptic_occ.structures.relation import GroundTruthRelation, Relation

SIZE = (14, 18)


def met(*others: tuple[int, ...]) -> list[InstanceRecord]:
    """The records of instances that have met these others."""
    return [InstanceRecord("kept", 10, met=indices) for indices in others]


SMALL = truth(3, [(1, 0)])
SMALL.inter[0, 2] = SMALL.inter[2, 0] = SMALL.visible[2, 0] = 1  # 1 of 10 px


@pytest.mark.parametrize(
    ("records", "front", "matches", "target", "sig_ratio", "expected"),
    [
        (met((), (0,)), [(1, 0)], [0, 1], truth(2, [(0, 1)]), 0.2, (1, 0)),
        (met((), (0,)), [(1, 0)], [0, 1], truth(2, [(1, 0)]), 0.2, (1, 1)),
        (met((), (0,)), [], [0, 1], truth(2, [(0, 1)]), 0.2, (1, 1)),
        (met((), (0,)), [], [0, 1], truth(2, [(1, 0)]), 0.2, (1, 0)),
        # 1 and 2 both stand for annotation 1, which lies in front of 0; the relation knows that of 1 only
        (met((), (0,), (0, 1)), [(1, 0)], [0, 1, 1], truth(2, [(1, 0)]), 0.2, (2, 1)),
        (met((), (0,), (0,)), [(1, 0), (2, 0)], [0, 1, 2], SMALL, 0.2, (1, 1)),  # 1 of 10 px is too few
        (met((), (0,), (0,)), [(1, 0), (2, 0)], [0, 1, 2], SMALL, 0.1, (2, 2)),
        (met((), (), (0,)), [(1, 0), (2, 0)], [0, 1, 2], SMALL, 0.1, (1, 1)),  # 1 never met 0
        (met((), (0,), (0,)), [(1, 0), (2, 0)], [0, 1, -1], SMALL, 0.1, (1, 1)),
    ],
)
def test_counts_by_hand(records, front, matches, target, sig_ratio, expected) -> None:
    said = relation(len(records), front)
    assert canvas_counts(records, said, torch.tensor(matches), target, sig_ratio) == expected


@pytest.mark.parametrize(("status", "pairs"), [("occluded", 1), ("erased", 1), ("same_class", 0), ("duplicate", 0)])
def test_only_what_the_fusion_compares_counts(status, pairs) -> None:
    records = [*met(()), InstanceRecord(status, 10, met=(0,)), *met(())]
    assert canvas_counts(records, relation(3, [(1, 0)]), torch.arange(3), SMALL, 0.2) == (pairs, pairs)


def test_matches_are_found_only_where_an_order_is_known() -> None:
    calls = []
    for front in ([], [(1, 0)]):
        find = lambda: calls.append(1) or torch.arange(2)  # noqa: E731
        canvas_counts(met((), (0,)), relation(2), find, truth(2, front), 0.2)
    assert len(calls) == 1


def test_metric_adds_images_up() -> None:
    metric = CanvasAccuracy()
    assert math.isnan(metric.compute().accuracy) and metric.compute().pairs == 0
    for front in ([(1, 0)], [], [(1, 0)]):
        metric.update(met((), (0,)), relation(2, front), torch.arange(2), truth(2, [(1, 0)]))
    assert metric.compute() == (2 / 3, 3)


def boxes(count: int, generator: torch.Generator) -> Tensor:
    low = torch.stack([torch.randint(0, edge - 6, (count,), generator=generator) for edge in SIZE[::-1]], dim=1)
    return torch.cat([low, low + torch.randint(4, 9, (count, 2), generator=generator)], dim=1).float()


@pytest.mark.parametrize("same_class_thr", [None, 0.4])
def test_equals_a_literal_fusion(same_class_thr: float | None) -> None:
    """Algorithm 1 on dense maps, counting at every instance the owners of its pixels."""
    policy = FusionPolicy(conf_thr=0.3, min_visible=0.3, same_class_thr=same_class_thr)
    total = right = hidden = 0
    for seed in range(25):
        generator = torch.Generator().manual_seed(seed)
        n, k = 9, 5
        placed, annotated = boxes(n, generator), boxes(k, generator)
        masks = torch.zeros(n, *SIZE, dtype=torch.bool)
        for mask, (left, top, x1, y1) in zip(masks, placed.long().tolist(), strict=True):
            mask[top:y1, left:x1] = True
        scores, labels = torch.linspace(0.9, 0.2, n), torch.randint(0, 2, (n,), generator=generator)
        instances = InstanceSet(MaskCrops.from_dense(masks), placed, scores, labels)
        margin = torch.randn(n, n, generator=generator)
        margin, stats = margin - margin.T, PairStats.of(instances.masks)
        lead = torch.randint(0, 11, (k, k), generator=generator)
        areas = torch.full((k,), 20)
        target = GroundTruthRelation(areas, areas, torch.full((k, k), 10), lead)
        matches = best_boxes(instances, annotated)

        said = Relation(margin, stats.inter > 0)
        panoptic = fuse(instances, stats, said, None, policy)
        counts = canvas_counts(panoptic.records, said, matches, target, 0.2)

        canvas = torch.full(SIZE, -1)
        pairs = correct = 0
        for i in range(n):
            if scores[i] < 0.3:
                continue
            owners = canvas[masks[i]]
            same = sum(bool(labels[j] == labels[i]) for j in owners[owners >= 0].tolist())
            if same_class_thr is not None and same and same / len(owners) >= same_class_thr:
                continue
            take = masks[i] & (canvas < 0)
            for j in owners[owners >= 0].unique().tolist():
                a, b = int(matches[i]), int(matches[j])
                if a != b and min(a, b) >= 0 and lead[a, b] != lead[b, a]:
                    pairs += 1
                    correct += bool(lead[a, b] > lead[b, a]) == bool(margin[i, j] > 0)
                if margin[i, j] > 0:
                    take |= masks[i] & (canvas == j)
            if take.sum() / masks[i].sum() > 0.3:
                canvas[take] = i
            else:
                hidden += 1
        assert counts == (pairs, correct), seed
        total, right = total + pairs, right + correct
    assert total > 60 and 0.3 < right / total < 0.7 and hidden > 0


@pytest.mark.parametrize("seed", range(10))
def test_closest_boxes_are_those_of_torchvision(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    placed, annotated = boxes(6, generator), boxes(seed % 5, generator)
    masks = MaskCrops.from_dense(torch.zeros(6, *SIZE).bool())
    instances = InstanceSet(masks, placed, torch.linspace(0.9, 0.4, 6), torch.zeros(6).long())
    iou = box_iou(placed, annotated).numpy()
    expected = np.where(iou.max(axis=1) > 0, iou.argmax(axis=1), -1) if len(annotated) else np.full(6, -1)
    assert best_boxes(instances, annotated).tolist() == expected.tolist()
