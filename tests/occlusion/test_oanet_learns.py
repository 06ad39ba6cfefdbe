"""OANet's ranking module learns a handful of images."""

from __future__ import annotations

import pytest
import torch

from helpers.ranking import loss_of, ranking
from panoptic_occ.metrics.order.relation_accuracy import relation_counts
from panoptic_occ.occlusion.oanet import SpatialRanking
from panoptic_occ.structures.instances import InstanceSet
from panoptic_occ.structures.masks import PairStats
from panoptic_occ.structures.target import Target
from panoptic_occ.testing import toy_target


def learnable(seed: int, size: int = 40) -> Target:
    """Discs with squares of another class in front and bars of a third class behind them."""
    generator = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    bars, discs, squares = [], [], []
    for k in range(2):
        cy, cx = (10 + 20 * k + int(torch.randint(-2, 3, (), generator=generator)) for _ in range(2))
        discs.append((y - cy) ** 2 + (x - cx) ** 2 < 64)
        squares.append(((y - cy - 3).abs() < 4) & ((x - cx - 4).abs() < 4))
        bars.append(((y - cy + 4).abs() < 3) & ((x - cx).abs() < 12))
    return toy_target(torch.stack(bars + discs + squares), torch.tensor([2, 2, 0, 0, 1, 1]))


def pairs_in_order(model: SpatialRanking, targets: list[Target]) -> tuple[int, int]:
    """(right, all) significant pairs of annotated masks; scores say nothing."""
    right = total = 0
    for target in targets:
        scores = torch.linspace(0.9, 0.6, len(target.labels))  # the one behind has the better score
        instances = InstanceSet(target.masks, target.boxes, scores, target.labels)
        stats = PairStats.of(target.masks)
        with torch.no_grad():
            relation = model(instances, stats)
        counts = relation_counts(instances, stats, relation, torch.arange(len(scores)), target.relation, 0.1)
        right, total = right + counts.correct, total + counts.pairs
    return right, total


@pytest.mark.parametrize("options", [{}, {"conv": "1x1", "conflict": "class"}, {"stride": 4}], ids=str)
def test_a_handful_of_images_is_learned(options: dict[str, object]) -> None:
    targets = [learnable(seed) for seed in range(3)]
    model = ranking(**options)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    first = loss_of(model, *targets).item()
    for _ in range(30):
        loss = loss_of(model, *targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < first / 4
    right, total = pairs_in_order(model, targets)
    assert total >= 12
    assert right / total > 0.95
