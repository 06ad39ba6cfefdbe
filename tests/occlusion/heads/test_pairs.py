"""The pair head: layer by layer, and its fast forms against the plain one on the joined inputs of every pair."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from helpers.toy_orders import all_pairs, scene
from panoptic_occ.occlusion.heads import roi_head
from panoptic_occ.occlusion.heads.roi_head import PairHead, roi_inputs
from scripts.benchmark.reference import pair_logits


def gradients(head: PairHead, logits: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(logits.square().sum(), list(head.parameters())))


def test_inputs_are_the_pooled_mask_and_the_feature() -> None:
    instances, _ = scene()
    x = roi_inputs(instances)
    assert instances.soft is not None and instances.roi_features is not None
    assert torch.equal(x[:, 1:], instances.roi_features)
    for row, column in all_pairs(14).tolist():
        cells = instances.soft[:, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
        assert torch.equal(x[:, 0, row, column], cells.amax(dim=(1, 2)))


def test_initialisation() -> None:
    torch.manual_seed(0)
    head = PairHead(9, 64, 128)
    assert all(not p.any() for name, p in head.named_parameters() if name.endswith("bias"))
    for conv in (head.conv1, head.conv2, head.conv3, head.conv4):
        assert conv.weight.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.03)  # fan out, ReLU
    bound = (3 / (64 * 49)) ** 0.5  # uniform with a=1: sqrt(6 / ((1 + 1) * fan_in))
    assert head.fc1.weight.abs().max().item() == pytest.approx(bound, rel=0.001)
    assert head.project.weight.std().item() == pytest.approx(0.01, rel=0.2)


@pytest.mark.parametrize("at_once", [3, 32])
@pytest.mark.parametrize("seed", range(6))
def test_fuzz_pairs_of_every_shape_with_gradients(seed: int, at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(roi_head.PAIRS_AT_ONCE, "cpu", at_once)
    torch.manual_seed(seed)
    head = PairHead(4, 8, 16).double()
    n = int(torch.randint(1, 9, ()))
    x = torch.randn(n, 4, 14, 14, dtype=torch.float64)
    pairs = {
        0: torch.zeros((0, 2), dtype=torch.int64),
        1: torch.stack([torch.arange(n), (torch.arange(n) + 1) % n], dim=1),  # a ring
        2: all_pairs(n),
        3: torch.stack([torch.zeros(n, dtype=torch.int64), torch.arange(n)], dim=1),  # one above all
    }.get(seed, torch.randint(n, (int(torch.randint(1, 40, ())), 2)))
    fast, slow = head(x, pairs), pair_logits(head, x, pairs)
    assert fast.shape == (len(pairs),)
    torch.testing.assert_close(fast, slow.float())
    for one, other in zip(gradients(head, head(x, pairs)), gradients(head, slow), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-8)


def test_width_of_the_paper_within_a_millionth() -> None:
    torch.manual_seed(0)
    head = PairHead(257, 512, 1024).eval()
    x = torch.randn(4, 257, 14, 14)
    later = torch.tril_indices(4, 4, offset=-1).T
    with torch.no_grad():
        for pairs in (later[:1], later):  # joined, and split
            expected = pair_logits(head, x, pairs)
            assert (head(x, pairs) - expected).abs().max() <= 1e-6 * max(1.0, expected.abs().max().item())


@pytest.mark.parametrize(
    ("pairs", "sizes"),
    [
        ([[1, 2], [2, 1], [3, 2]], []),  # 3 of 3 and 2 instances: not over 1.25 * 2.5
        ([[1, 2], [1, 4], [3, 2], [3, 4]], [(2, 2)]),  # 4 of 2 and 2
        ([[0, k] for k in range(1, 9)], [(1, 8)]),  # one above eight others
    ],
)
def test_many_pairs_are_split_and_each_role_is_convolved_once(
    pairs: list[list[int]], sizes: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    head, calls = PairHead(2, 4, 8), []
    halves = head.first_halves
    monkeypatch.setattr(head, "first_halves", lambda *roles: calls.append(tuple(map(len, roles))) or halves(*roles))
    head(torch.randn(9, 2, 14, 14), torch.tensor(pairs))
    assert calls == sizes


def test_the_inputs_are_left_as_they_were() -> None:
    """Layers work in place on what they made themselves, never on the features."""
    head, x = PairHead(2, 4, 8), torch.randn(3, 2, 14, 14)
    before = x.clone()
    for pairs in ([[0, 1]], [[0, 1], [1, 0], [0, 2], [2, 0], [1, 2], [2, 1]]):
        head(x, torch.tensor(pairs))
    assert torch.equal(x, before)
