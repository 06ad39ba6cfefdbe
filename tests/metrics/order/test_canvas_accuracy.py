"""RAP's way to count right orders: against a literal fusion over dense maps, and by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from panoptic_occ.fusion.engine import fuse
from panoptic_occ.fusion.policy import FusionPolicy
from panoptic_occ.metrics.order.canvas_accuracy import CanvasAccuracy, canvas_counts
from panoptic_occ.ops.matching import best_boxes
from panoptic_occ.structures.instances import InstanceSet
from panoptic_occ.structures.masks import MaskCrops, PairStats
from panoptic_occ.structures.panoptic_map import InstanceRecord
from panoptic_occ.structures.relation import GroundTruthRelation, Relation

SIZE = (14, 18)


def truth(order: dict[tuple[int, int], int], count: int) -> GroundTruthRelation:
    """``order``: (front, behind) and the pixels that they share of masks of 10, all owned by the front one."""
    common, own = torch.zeros((2, count, count), dtype=torch.int64)
    for (front, behind), pixels in order.items():
        common[front, behind] = common[behind, front] = own[front, behind] = pixels
    areas = torch.full((count,), 10)
    return GroundTruthRelation(areas, areas, common, own)


def relation(count: int, *above: tuple[int, int]) -> Relation:
    margin = torch.zeros(count, count)
    for front, behind in above:
        margin[front, behind], margin[behind, front] = 1, -1
    return Relation(margin, margin != 0)


def kept(*met: int) -> InstanceRecord:
    return InstanceRecord("kept", 10, met=met)


class TestByHand:
    def test_who_lies_in_front(self) -> None:
        records = [kept(), kept(0)]
        for annotated, correct in (((0, 1), 0), ((1, 0), 1)):
            target = truth({annotated: 5}, 2)
            assert canvas_counts(records, relation(2, (1, 0)), torch.arange(2), target, 0.2) == (1, correct)
            assert canvas_counts(records, relation(2), torch.arange(2), target, 0.2) == (1, 1 - correct)

    def test_detections_may_share_an_annotation(self) -> None:
        """1 and 2 both stand for annotation 1, which lies in front of 0; the relation knows that of 1 only."""
        records, matches = [kept(), kept(0), kept(0, 1)], torch.tensor([0, 1, 1])
        assert canvas_counts(records, relation(3, (1, 0)), matches, truth({(1, 0): 5}, 2), 0.2) == (2, 1)

    def test_what_does_not_count(self) -> None:
        target, all_of = truth({(1, 0): 5, (2, 0): 1}, 3), torch.arange(3)
        found = relation(3, (1, 0), (2, 0))
        assert canvas_counts([kept(), kept(0), kept(0)], found, all_of, target, 0.2) == (1, 1)  # 1 of 10 px is too few
        assert canvas_counts([kept(), kept(0), kept(0)], found, all_of, target, 0.1) == (2, 2)
        assert canvas_counts([kept(), kept(), kept(0)], found, all_of, target, 0.1) == (1, 1)  # 1 never met 0
        assert canvas_counts([kept(), kept(0), kept(0)], found, torch.tensor([0, 1, -1]), target, 0.1) == (1, 1)
        for status, pairs in (("occluded", 1), ("erased", 1), ("same_class", 0), ("duplicate", 0)):
            records = [kept(), InstanceRecord(status, 10, met=(0,)), kept()]  # type: ignore[arg-type]
            assert canvas_counts(records, found, all_of, target, 0.2) == (pairs, pairs), status

    def test_matches_are_asked_for_where_an_order_is_known(self) -> None:
        asked = []
        for order in ({}, {(1, 0): 5}):
            canvas_counts(
                [kept(), kept(0)], relation(2), lambda: asked.append(1) or torch.arange(2), truth(order, 2), 0.2
            )
        assert len(asked) == 1

    def test_metric_adds_images_up(self) -> None:
        metric = CanvasAccuracy()
        assert math.isnan(metric.compute().accuracy) and metric.compute().pairs == 0
        for above in ([(1, 0)], [], [(1, 0)]):
            metric.update([kept(), kept(0)], relation(2, *above), torch.arange(2), truth({(1, 0): 5}, 2))
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

        found = Relation(margin, stats.inter > 0)
        panoptic = fuse(instances, stats, found, None, policy)
        counts = canvas_counts(panoptic.records, found, matches, target, 0.2)

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
def test_closest_boxes_one_by_one(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    found, annotated = boxes(6, generator), boxes(seed % 5, generator)
    masks = MaskCrops.from_dense(torch.zeros(6, *SIZE).bool())
    instances = InstanceSet(masks, found, torch.linspace(0.9, 0.4, 6), torch.zeros(6).long())
    expected = []
    for x0, y0, x1, y1 in found.tolist():
        best, most = -1, 0.0
        for k, (u0, v0, u1, v1) in enumerate(annotated.tolist()):
            common = max(min(x1, u1) - max(x0, u0), 0) * max(min(y1, v1) - max(y0, v0), 0)
            iou = common / ((x1 - x0) * (y1 - y0) + (u1 - u0) * (v1 - v0) - common)
            if iou > most:
                best, most = k, iou
        expected.append(best)
    assert best_boxes(instances, annotated).tolist() == expected
