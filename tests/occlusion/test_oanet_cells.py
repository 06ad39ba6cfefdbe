"""OANet at a quarter of the resolution: what a cell of 4 x 4 pixels holds of a mask."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from helpers.ranking import literal_map, literal_scores, loss_of, ranking, scene
from panoptic_occ.occlusion.oanet import BRANCHES, SpatialRanking, ranking_target
from panoptic_occ.structures.masks import MaskCrops
from panoptic_occ.structures.semantic_map import VOID_LABEL


def whole_map(model: SpatialRanking, masks: Tensor, labels: Tensor) -> Tensor:
    """S of the whole image as the module computes it."""
    crops, box = MaskCrops.from_dense(masks), (0, 0, *masks.shape[1:])
    return model.ranking_map(crops, labels, box, model.conv.folded()).detach()


@pytest.mark.parametrize(("pool", "pixel", "column"), [("average", 1 / 16, 1 / 4), ("any", 1, 1)])
def test_a_pixel_and_a_thin_column(pool: str, pixel: float, column: float) -> None:
    """S = T: class 0 has one pixel of the first cell, class 1 a column of all three cells of one side."""
    model = ranking(stride=4, pool=pool, init="identity")
    torch.nn.init.zeros_(model.conv.bias)
    masks = torch.zeros(2, 12, 12, dtype=torch.bool)
    masks[0, 2, 1], masks[1, :, 6] = True, True
    found = whole_map(model, masks, torch.tensor([0, 1]))
    cells = torch.zeros(3, 3, 3)
    cells[0, 0, 0], cells[1, :, 1] = pixel, column
    assert torch.equal(found, F.interpolate(cells[None], scale_factor=4, mode="bilinear")[0])


@pytest.mark.parametrize("conv", sorted(BRANCHES))
def test_any_pixel_is_the_average_of_masks_that_fill_their_cells(conv: str) -> None:
    model, average = ranking(conv=conv, stride=4, pool="any"), ranking(conv=conv, stride=4)
    for seed in range(4):
        _, instances = scene(1 + 2 * seed, seed, size=(24, 32))
        masks = instances.masks.dense()
        filled = masks.view(-1, 6, 4, 8, 4).any(dim=4).any(dim=2)
        filled = filled.repeat_interleave(4, dim=1).repeat_interleave(4, dim=2)
        found = whole_map(model, masks, instances.labels)
        assert torch.equal(found, whole_map(average, filled, instances.labels))
        assert not torch.equal(found, whole_map(average, masks, instances.labels))


@pytest.mark.parametrize("conv", sorted(BRANCHES))
def test_scores_of_any_pixel_are_those_of_the_whole_image(conv: str) -> None:
    """The image's sides are no multiples of 4, and only a part of it is computed."""
    model = ranking(conv=conv, stride=4, pool="any")
    for seed in range(4):
        _, instances = scene(1 + 2 * seed, seed)
        found = model.ranking_scores(instances.masks, instances.labels)
        torch.testing.assert_close(found, literal_scores(model, instances), rtol=1e-5, atol=1e-6)


def test_loss_of_any_pixel_against_the_whole_image() -> None:
    model = ranking(stride=4, pool="any")
    targets = [scene(count, seed)[0] for count, seed in ((6, 0), (1, 1), (4, 2))]
    total, count = torch.zeros(()), 0
    for target in targets:
        scores = literal_map(model, target.masks.dense(), target.labels)
        truth = ranking_target(target, model.conflict, 3)
        total = total + F.cross_entropy(scores[None], truth[None], ignore_index=VOID_LABEL, reduction="sum")
        count += int((truth != VOID_LABEL).sum())
    assert loss_of(model, *targets).item() == pytest.approx((total / count).item(), rel=1e-5)


def test_every_pixel_is_a_cell_of_its_own() -> None:
    target, instances = scene(7, seed=1)
    scores = [ranking(pool=pool).ranking_scores(instances.masks, instances.labels) for pool in ("average", "any")]
    losses = [loss_of(ranking(pool=pool), target) for pool in ("average", "any")]
    assert torch.equal(*scores) and torch.equal(*losses)
