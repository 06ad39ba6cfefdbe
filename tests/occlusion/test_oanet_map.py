"""The map S: layers, resolution, cells and windows, against the whole image; and that it is learned."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from helpers.ranking import literal_map, literal_scores, loss_of, ranking, scene
from panoptic_occ.metrics.order.relation_accuracy import relation_counts
from panoptic_occ.occlusion.oanet import BRANCHES, RankingConv, SpatialRanking, ranking_target
from panoptic_occ.structures.instances import InstanceSet
from panoptic_occ.structures.masks import MaskCrops, PairStats
from panoptic_occ.structures.semantic_map import VOID_LABEL
from panoptic_occ.structures.target import Target
from panoptic_occ.testing import toy_target

CONVS = sorted(BRANCHES)
CELLS = pytest.mark.parametrize(("stride", "pool"), [(1, "average"), (4, "average"), (4, "any")])


def whole_map(model: SpatialRanking, masks: Tensor, labels: Tensor) -> Tensor:
    """S of the whole image as the module computes it."""
    crops, box = MaskCrops.from_dense(masks), (0, 0, *masks.shape[1:])
    return model.ranking_map(crops, labels, box, model.conv.folded()).detach()


class TestMap:
    def test_size_of_the_paper(self) -> None:
        with torch.device("meta"):
            conv = RankingConv("gcn7", 80)
        kernels = list(conv.branches.parameters())
        assert [tuple(k.shape[2:]) for k in kernels] == [(1, 7), (7, 1), (7, 1), (1, 7)]
        assert sum(k.numel() for k in kernels) == 179_200 and conv.bias.shape == (80,)

    @pytest.mark.parametrize("conv", CONVS)
    def test_initialisation(self, conv: str) -> None:
        torch.manual_seed(0)
        built = RankingConv(conv, 40)  # type: ignore[arg-type]
        assert not built.bias.any()
        for kernel in built.branches.parameters():
            fan_out = 40 * kernel.shape[2] * kernel.shape[3]
            assert kernel.std().item() == pytest.approx(fan_out**-0.5, rel=0.05)

    @pytest.mark.parametrize("stride", [1, 4])
    @pytest.mark.parametrize("conv", CONVS)
    def test_identity_begins_with_s_equal_to_t(self, conv: str, stride: int) -> None:
        """Exactly, as every factor is a power of two; also layer by layer."""
        kernel = RankingConv(conv, 5, init="identity").folded()  # type: ignore[arg-type]
        expected = torch.zeros_like(kernel)
        middle = kernel.shape[-1] // 2
        expected[:, :, middle, middle] = torch.eye(5)
        assert torch.equal(kernel, expected)
        model = ranking(conv=conv, stride=stride, init="identity")
        torch.nn.init.zeros_(model.conv.bias)
        masks, labels = scene(5, size=(24, 32))[0].masks.dense(), torch.tensor([0, 1, 2, 0, 1])
        tensor = torch.stack([masks[labels == c].any(dim=0) for c in range(3)]).float()
        if stride == 4:
            cells = tensor.view(3, 6, 4, 8, 4).mean(dim=(2, 4))
            tensor = F.interpolate(cells[None], scale_factor=4, mode="bilinear")[0]
        assert torch.equal(literal_map(model, masks, labels), tensor)

    @pytest.mark.parametrize("conv", CONVS)
    def test_one_folded_kernel_equals_the_layers(self, conv: str) -> None:
        built = ranking(conv=conv).conv.double()
        x = torch.rand(1, 3, 9, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1))  # borders count
        expected = torch.zeros(1, 3, 9, 12, dtype=torch.float64)
        for branch in built.branches:
            y = x
            for kernel in branch.parameters():
                y = F.conv2d(y, kernel, padding="same")
            expected = expected + y
        folded = built.folded()
        assert folded.shape[-1] == {"1x1": 1, "3x3": 3}.get(conv, 7)
        assert (F.conv2d(x, folded, padding="same") - expected).abs().max() < 1e-12

    @CELLS
    @pytest.mark.parametrize("conv", CONVS)
    def test_scores_are_those_of_the_whole_image(self, conv: str, stride: int, pool: str) -> None:
        """The image's sides are no multiples of 4, and only a part of it is computed."""
        model = ranking(conv=conv, stride=stride, pool=pool)
        for seed in range(4):
            _, instances = scene(1 + 2 * seed, seed)
            scores = model.ranking_scores(instances.masks, instances.labels)
            torch.testing.assert_close(scores, literal_scores(model, instances), rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize("stride", [1, 4])
    def test_masks_at_the_borders_and_empty_ones(self, stride: int) -> None:
        masks = torch.zeros(4, 22, 31, dtype=torch.bool)
        masks[0, 20:, 25:], masks[1, 15:, 29:], masks[2, 21, 20:] = True, True, True
        crops = MaskCrops.from_dense(masks)
        instances = InstanceSet(crops, torch.zeros(4, 4), torch.linspace(0.9, 0.6, 4), torch.tensor([0, 1, 2, 2]))
        model = ranking(stride=stride)
        scores = model.ranking_scores(crops, instances.labels)
        torch.testing.assert_close(scores[:3], literal_scores(model, instances)[:3], rtol=1e-5, atol=1e-6)
        assert scores[3] == 0

    def test_absent_classes_are_not_computed(self) -> None:
        model = ranking(conv="3x3")
        target, _ = scene()
        labels = target.labels.clamp(max=1)
        with torch.no_grad():
            model.conv.branches[0][0][:, 2] = torch.nan
        assert model.ranking_scores(target.masks, labels).isfinite().all()

    def test_quarter_resolution_of_a_replicated_map(self) -> None:
        """Cells of equal pixels: T is that of the small map, so S is the small one's, upsampled."""
        small, _ = scene(5, seed=2, size=(6, 9))
        masks = small.masks.dense()
        large = MaskCrops.from_dense(masks.repeat_interleave(4, dim=1).repeat_interleave(4, dim=2))
        fine, coarse = ranking(), ranking(stride=4)
        scores = F.interpolate(literal_map(fine, masks, small.labels)[None], scale_factor=4, mode="bilinear")[0]
        probs = scores.softmax(dim=0)
        expected = torch.stack([probs[c][m].mean() for c, m in zip(small.labels, large.dense(), strict=True)])
        torch.testing.assert_close(coarse.ranking_scores(large, small.labels), expected, rtol=1e-5, atol=1e-6)

    @CELLS
    @pytest.mark.parametrize("conflict", ["instance", "class"])
    def test_loss_against_the_whole_image(self, conflict: str, stride: int, pool: str) -> None:
        model = ranking(conflict=conflict, stride=stride, pool=pool)
        targets = [scene(count, seed)[0] for count, seed in ((6, 0), (1, 1), (4, 2), (7, 3))]
        total, count = torch.zeros(()), 0
        for target in targets:
            scores = literal_map(model, target.masks.dense(), target.labels)
            truth = ranking_target(target, model.conflict, 3)
            total = total + F.cross_entropy(scores[None], truth[None], ignore_index=VOID_LABEL, reduction="sum")
            count += int((truth != VOID_LABEL).sum())
        loss = loss_of(model, *targets)
        assert loss.item() == pytest.approx((total / count).item(), rel=1e-5)
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        expected = torch.autograd.grad(total / count, list(model.parameters()))
        for a, b in zip(gradients, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("pool", "pixel", "column"), [("average", 1 / 16, 1 / 4), ("any", 1, 1)])
def test_a_pixel_and_a_thin_column(pool: str, pixel: float, column: float) -> None:
    """S = T: class 0 has one pixel of the first cell, class 1 a column of all three cells of one side."""
    model = ranking(stride=4, pool=pool, init="identity")
    torch.nn.init.zeros_(model.conv.bias)
    masks = torch.zeros(2, 12, 12, dtype=torch.bool)
    masks[0, 2, 1], masks[1, :, 6] = True, True
    ranks = whole_map(model, masks, torch.tensor([0, 1]))
    cells = torch.zeros(3, 3, 3)
    cells[0, 0, 0], cells[1, :, 1] = pixel, column
    assert torch.equal(ranks, F.interpolate(cells[None], scale_factor=4, mode="bilinear")[0])


@pytest.mark.parametrize("conv", CONVS)
def test_any_pixel_is_the_average_of_masks_that_fill_their_cells(conv: str) -> None:
    model, average = ranking(conv=conv, stride=4, pool="any"), ranking(conv=conv, stride=4)
    for seed in range(4):
        _, instances = scene(1 + 2 * seed, seed, size=(24, 32))
        masks = instances.masks.dense()
        filled = masks.view(-1, 6, 4, 8, 4).any(dim=4).any(dim=2)
        filled = filled.repeat_interleave(4, dim=1).repeat_interleave(4, dim=2)
        ranks = whole_map(model, masks, instances.labels)
        assert torch.equal(ranks, whole_map(average, filled, instances.labels))
        assert not torch.equal(ranks, whole_map(average, masks, instances.labels))


def test_every_pixel_is_a_cell_of_its_own() -> None:
    target, instances = scene(7, seed=1)
    scores = [ranking(pool=pool).ranking_scores(instances.masks, instances.labels) for pool in ("average", "any")]
    losses = [loss_of(ranking(pool=pool), target) for pool in ("average", "any")]
    assert torch.equal(*scores) and torch.equal(*losses)


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
