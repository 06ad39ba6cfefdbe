"""SOGNet's relational embedding: formulas, graph properties, and that contested pixels teach the direction."""

from __future__ import annotations

import math

import pytest
import torch

from helpers.toy_orders import built, scene
from panoptic_occ.occlusion.base import TrainingExample
from panoptic_occ.occlusion.sognet import RelationalEmbedding, box_offsets, contested_pixels, first_of_each, uncovered
from panoptic_occ.structures.masks import PairStats
from panoptic_occ.testing import toy_categories, toy_example


def test_g1_the_product_form_equals_the_sum_over_pairs() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 40, generator=generator, dtype=torch.float64) * 3
    graph = torch.rand(6, 6, generator=generator, dtype=torch.float64)
    expected = logits.clone()
    for i in range(6):
        for j in range(6):
            expected[i] -= logits[i] * logits[i].sigmoid() * logits[j].sigmoid() * graph[i, j]
    torch.testing.assert_close(uncovered(logits, graph), expected, rtol=0, atol=1e-14)


def test_g2_nobody_covers_itself_and_no_two_cover_each_other() -> None:
    instances, stats = scene(6)
    model = built(RelationalEmbedding)
    covered = model.covered(instances.boxes, instances.labels)
    graph = (covered - covered.T).relu()
    assert not graph.diagonal().any() and not (graph * graph.T).any()
    relation = model(instances, stats)
    assert torch.equal(relation.margin > 0, graph.T > 0)  # covered by j: j lies above


def test_g3_a_negative_logit_moves_up() -> None:
    moved = uncovered(torch.tensor([[-2.0], [3.0]]), torch.tensor([[0.0, 1.0], [0.0, 0.0]]))
    assert -2.0 < moved[0].item() < 0 and moved[1].item() == 3.0


def test_offsets_of_two_boxes() -> None:
    offsets = box_offsets(torch.tensor([[0.0, 0.0, 4.0, 2.0], [4.0, 2.0, 6.0, 10.0]]))
    torch.testing.assert_close(offsets[0, 1], torch.tensor([0.75, 2.5, math.log(0.5), math.log(4.0)]))
    assert not offsets[0, 0].any()


def test_it_has_the_published_number_of_parameters() -> None:
    model = RelationalEmbedding(in_channels=256, categories=toy_categories(things=80, stuff=53))
    assert sum(p.numel() for p in model.parameters()) == 41_856


def test_contested_pixels_are_those_that_two_masks_share() -> None:
    example = toy_example(5)
    first = first_of_each(example.matches)
    assert first.tolist() == [0, 1, 2, 3, 4]
    logits, owner = contested_pixels(example.instances[first], example.matches[first], example.target)
    dense, ids = example.target.masks.dense(), example.target.panoptic.ids
    where = (dense.sum(dim=0) >= 2) & (ids > 0)
    assert torch.equal(owner, ids[where] - 1)  # toy ids are annotation + 1
    assert logits.shape == (5, int(where.sum()))


def right_pairs(model: RelationalEmbedding, examples: list[TrainingExample]) -> int:
    right = 0
    for example in examples:
        instances = example.instances[torch.arange(2)]
        above = model(instances, PairStats.of(instances.masks)).margin > 0
        truth = example.target.relation.matrix(0.2)
        right += int((above[truth >= 0] == (truth[truth >= 0] == 1)).sum()) // 2
    return right


def test_contested_pixels_teach_the_direction() -> None:
    """The mask logits of both instances say the same, so only the relation can explain who owns the pixels.

    Not every pair gets there: one that starts the wrong way is pulled to 0 by its pixels and held by the overlap term.
    """
    examples = [toy_example(2, seed) for seed in range(8)]
    for example in examples:
        assert example.instances.soft is not None
        example.instances.soft.fill_(0.95)
    model = built(RelationalEmbedding, overlap_weight=1.0)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    before, losses = right_pairs(model, examples), []
    for _ in range(60):
        optimizer.zero_grad()
        named = model.loss(examples, torch.Generator())
        torch.stack(list(named.values())).sum().backward()
        optimizer.step()
        losses.append({name: loss.item() for name, loss in named.items()})
    pairs = sum(bool((e.target.relation.matrix(0.2) >= 0).any()) for e in examples)
    assert before < right_pairs(model, examples) >= 0.75 * pairs
    assert losses[-1]["loss_order"] < 0.75 * losses[0]["loss_order"]
    assert losses[-1]["loss_overlap"] < 0.5 * losses[0]["loss_overlap"]


@pytest.mark.parametrize("count", [0, 1, 6])
def test_covered_against_the_formula_pair_by_pair(count: int) -> None:
    model = built(RelationalEmbedding, class_channels=5, box_channels=3)
    instances, _ = scene(count)
    boxes, labels, n = instances.boxes.float(), instances.labels, len(instances)
    covered = model.covered(boxes, labels)
    assert covered.shape == (n, n)
    offsets = box_offsets(boxes)
    for i in range(n):
        for j in range(n):
            classes = model.first_class.weight[:, labels[i]].relu() * model.second_class.weight[:, labels[j]].relu()
            joined = torch.cat([classes, (model.box.weight @ offsets[i, j]).relu()])
            torch.testing.assert_close(covered[i, j], (model.project.weight[0] @ joined).sigmoid())
