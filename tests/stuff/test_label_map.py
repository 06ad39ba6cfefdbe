"""The label map read from stride 4, against the literal chain of interpolations and against numbers by hand."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F
from torch.profiler import profile

from panoptic_occ.stuff import label_map
from panoptic_occ.stuff.label_map import full_logits, most_likely

Size = tuple[int, int]
KINDS = ("smooth", "noise", "ties", "confident", "constant")


def dense(logits: torch.Tensor, inside: Size, size: Size, align_corners: bool = False) -> torch.Tensor:
    """x4, crop, resize where the size differs: logits of every pixel, in the precision of ``logits``."""
    full = F.interpolate(logits[None], scale_factor=4, mode="bilinear", align_corners=align_corners)
    full = full[..., : inside[0], : inside[1]]
    return F.interpolate(full, size=size, mode="bilinear", align_corners=False)[0] if inside != size else full[0]


def drawn(kind: str, channels: int, cells: Size) -> torch.Tensor:
    if kind == "noise":
        return torch.randn(channels, *cells)
    if kind == "ties":
        return torch.randint(-1, 2, (channels, *cells)).float()
    if kind == "constant":
        return torch.zeros(channels, *cells)
    coarse = torch.randn(1, channels, 3, 3)
    smooth = F.interpolate(coarse, size=cells, mode="bicubic", align_corners=False)[0]
    return smooth * (50 if kind == "confident" else 1)


def check(logits: torch.Tensor, inside: Size, size: Size, align_corners: bool = False) -> int:
    """Compares with the dense chain and gives the number of pixels that differ, all of them ties up to rounding."""
    labels = most_likely(logits, inside, size, align_corners)
    assert labels.dtype == torch.int64 and labels.shape == size
    differ = labels != dense(logits.float(), inside, size, align_corners).argmax(dim=0)
    exact = dense(logits.double(), inside, size, align_corners)
    largest = dense(logits.double().abs(), inside, size, align_corners).amax(dim=0)
    behind = exact.amax(dim=0) - exact.gather(0, labels[None])[0]
    assert (behind <= 1e-6 * largest).all()
    return int(differ.sum())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("resized", [False, True])
@pytest.mark.parametrize("align_corners", [False, True])
def test_equals_the_dense_chain(kind: str, resized: bool, align_corners: bool) -> None:
    torch.manual_seed(len(kind) + resized)
    pixels = differing = 0
    for _ in range(25):
        channels = int(torch.randint(1, 40, ()))
        height, width = (int(n) for n in torch.randint(1, 30, (2,)))
        inside = tuple(int(torch.randint(1, 4 * n + 1, ())) for n in (height, width))
        size = tuple(int(torch.randint(1, 120, ())) for _ in inside) if resized else inside
        differing += check(drawn(kind, channels, (height, width)), inside, size, align_corners)
        pixels += size[0] * size[1]
    # where two classes are equal in float64, rounding decides in either form
    assert differing <= (0.02 * pixels if kind == "ties" else 1e-4 * pixels)


def test_pixels_beyond_one_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    monkeypatch.setattr(label_map, "PIXELS_AT_ONCE", 7)
    assert check(torch.randn(5, 6, 7), (24, 28), (24, 28)) == 0


@pytest.mark.parametrize("channels", [16, 17, 31, 133])
def test_channels_that_do_not_fill_a_register(channels: int) -> None:
    """The last channel must be able to win, and nothing behind it."""
    logits = torch.full((channels, 3, 4), -8.0)
    logits[-1, :, 2:] = -1.0
    logits[0, :, :2] = -1.0
    labels = most_likely(logits, (12, 16), (12, 16))
    assert (labels[:, 8:] == channels - 1).all() and (labels[:, :8] == 0).all()


def test_the_second_of_every_cell_can_win_between_them() -> None:
    logits = torch.tensor([[10.0, 0.0], [9.0, 9.0], [0.0, 10.0]])[:, None]
    # centres of the cells at x = 1.5 and 5.5; class 0 gives way at one tenth of the way: 10 - 10 t = 9
    assert most_likely(logits, (4, 8), (4, 8))[2].tolist() == [0, 0, 1, 1, 1, 1, 2, 2]


def test_equal_classes_give_the_first() -> None:
    assert (most_likely(torch.zeros(7, 4, 4), (16, 16), (9, 23)) == 0).all()
    logits = torch.zeros(7, 4, 4)
    logits[[3, 5]] = 2.5
    assert (most_likely(logits, (16, 16), (16, 16)) == 3).all()


def test_layout_precision_and_gradient_of_the_logits_do_not_matter() -> None:
    torch.manual_seed(1)
    logits = torch.randn(21, 9, 11).bfloat16()
    inside, size = (33, 41), (50, 30)
    expected = most_likely(logits.float(), inside, size)
    innermost = logits.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    assert torch.equal(most_likely(innermost, inside, size), expected)
    assert torch.equal(most_likely(logits.float().requires_grad_(), inside, size), expected)
    with torch.inference_mode():
        assert torch.equal(most_likely(logits.clone(), inside, size), expected)


def test_full_logits_are_the_chain() -> None:
    torch.manual_seed(2)
    logits = torch.randn(3, 6, 8)
    for size in ((21, 30), (50, 17)):
        for aligned in (False, True):
            full = full_logits(logits, (21, 30), size, aligned)
            assert torch.equal(full, dense(logits, (21, 30), size, aligned))


def test_memory_stays_far_below_that_of_all_logits() -> None:
    torch.manual_seed(3)
    logits = torch.randn(133, 64, 80)  # the worst case: every pixel lies between different winners
    with profile(profile_memory=True) as trace:
        most_likely(logits, (256, 320), (256, 320))
    largest = max(event.self_cpu_memory_usage for event in trace.events())
    assert largest <= 1.1 * max(label_map.PIXELS_AT_ONCE * 144, 64 * 80 * 144) * 4
    assert largest < 133 * 256 * 320 * 4 / 4
