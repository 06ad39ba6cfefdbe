"""The pair head's fast forms against the plain one: the same layers on the joined inputs of every pair."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from panoptic_occ.occlusion.heads import roi_head
from panoptic_occ.occlusion.heads.roi_head import PairHead


def plain(head: PairHead, x: Tensor, pairs: Tensor) -> Tensor:
    y = torch.cat([x[pairs[:, 0]], x[pairs[:, 1]]], dim=1)
    for conv in (head.conv1, head.conv2, head.conv3, head.conv4):
        y = F.relu(conv(y))
    logits: Tensor = head.project(F.relu(head.fc1(y.flatten(1)))).squeeze(1)
    return logits


def gradients(head: PairHead, logits: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(logits.square().sum(), list(head.parameters())))


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
        2: torch.cartesian_prod(torch.arange(n), torch.arange(n)),
        3: torch.stack([torch.zeros(n, dtype=torch.int64), torch.arange(n)], dim=1),  # one above all
    }.get(seed, torch.randint(n, (int(torch.randint(1, 40, ())), 2)))
    fast, slow = head(x, pairs), plain(head, x, pairs)
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
            expected = plain(head, x, pairs)
            assert (head(x, pairs) - expected).abs().max() <= 1e-6 * max(1.0, expected.abs().max().item())


def test_each_role_is_convolved_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight pairs of one instance above eight others: one first half and eight second halves."""
    head = PairHead(2, 4, 8)
    sizes: list[tuple[int, int]] = []
    halves = head.first_halves

    def counted(firsts: Tensor, seconds: Tensor) -> tuple[Tensor, Tensor]:
        sizes.append((len(firsts), len(seconds)))
        return halves(firsts, seconds)

    monkeypatch.setattr(head, "first_halves", counted)
    head(torch.randn(9, 2, 14, 14), torch.stack([torch.zeros(8, dtype=torch.int64), torch.arange(1, 9)], dim=1))
    assert sizes == [(1, 8)]


def test_the_inputs_are_left_as_they_were() -> None:
    """Layers work in place on what they made themselves, never on the features."""
    head, x = PairHead(2, 4, 8), torch.randn(3, 2, 14, 14)
    before = x.clone()
    for pairs in ([[0, 1]], [[0, 1], [1, 0], [0, 2], [2, 0], [1, 2], [2, 1]]):
        head(x, torch.tensor(pairs))
    assert torch.equal(x, before)
