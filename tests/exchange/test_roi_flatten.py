"""RoI-Flatten against a literal loop over masks, and the oracle F1."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from panoptic_occ.exchange.roi_flatten import roi_flatten
from panoptic_occ.thing.base import Rois


def make_rois(boxes: list[list[float]], labels: list[int]) -> Rois:
    """Boxes in canvas pixels."""
    return Rois(4 * torch.tensor(boxes).reshape(-1, 4), torch.tensor(labels, dtype=torch.int64), torch.ones(len(boxes)))


def random_case(seed: int, images: int = 2, count: int = 6, size: tuple[int, int] = (11, 14)):
    generator = torch.Generator().manual_seed(seed)
    rois = []
    for _ in range(images):
        corners = torch.rand((count, 2), generator=generator) * torch.tensor([size[1], size[0]]) - 2
        extent = torch.rand((count, 2), generator=generator) * 10
        labels = torch.randint(0, 3, (count,), generator=generator)
        rois.append(Rois(4 * torch.cat([corners, corners + extent], dim=1), labels, torch.ones(count)))
    return torch.rand((images * count, 28, 28), generator=generator), rois, size


def slow_canvas(soft: torch.Tensor, rois: list[Rois], classes: int, size: tuple[int, int]) -> torch.Tensor:
    """Every mask resampled over the whole canvas by ``grid_sample``, one after the other."""
    canvas = torch.zeros(len(rois), classes, *size, dtype=soft.dtype)
    y, x = (torch.arange(edge, dtype=soft.dtype) + 0.5 for edge in size)
    masks = iter(soft)
    for image, r in enumerate(rois):
        for (x0, y0, x1, y1), label in zip((r.boxes / 4).tolist(), r.labels.tolist(), strict=True):
            u, v = (x - x0) / (x1 - x0), (y - y0) / (y1 - y0)
            grid = torch.stack([u.expand(size[0], -1), v[:, None].expand(-1, size[1])], dim=-1) * 2 - 1
            values = F.grid_sample(
                next(masks)[None, None], grid[None].to(soft.dtype), padding_mode="border", align_corners=False
            )[0, 0]
            inside = ((u >= 0) & (u <= 1)) & ((v >= 0) & (v <= 1))[:, None]
            canvas[image, label] = torch.maximum(canvas[image, label], torch.where(inside, values, 0))
    return canvas


def test_f1_same_class_takes_the_maximum() -> None:
    soft = torch.stack([torch.full((28, 28), 0.6), torch.full((28, 28), 0.8)]).requires_grad_()
    canvas = roi_flatten(soft, [make_rois([[1, 1, 5, 5], [3, 3, 7, 7]], [1, 1])], 2, (8, 8))
    expected = torch.zeros(8, 8)
    expected[1:5, 1:5] = 0.6
    expected[3:7, 3:7] = 0.8
    torch.testing.assert_close(canvas[0, 1], expected)
    assert (canvas[0, 0] == 0).all() and (canvas[0, 1][expected == 0] == 0).all()
    canvas[0, 1, 3:5, 3:5].sum().backward()
    assert (soft.grad[0] == 0).all(), "the loser of a pixel gets no gradient"
    assert soft.grad[1].sum() == 4


def test_f1_classes_and_images_have_channels_of_their_own() -> None:
    soft = torch.stack([torch.full((28, 28), value) for value in (0.6, 0.8, 0.7)])
    rois = [make_rois([[1, 1, 5, 5], [3, 3, 7, 7]], [0, 1]), make_rois([[0, 0, 2, 2]], [0])]
    canvas = roi_flatten(soft, rois, 2, (8, 8))
    assert [canvas[0, 0, 4, 4], canvas[0, 1, 4, 4], canvas[1, 0, 1, 1]] == torch.tensor([0.6, 0.8, 0.7]).tolist()
    assert canvas[1, 1].sum() == 0 and canvas[1, 0].count_nonzero() == 4


def test_f1_scores_weight_the_masks() -> None:
    rois = [make_rois([[0, 0, 4, 4], [2, 0, 6, 4]], [0, 0])]
    canvas = roi_flatten(torch.ones(2, 28, 28), rois, 1, (4, 6), torch.tensor([0.5, 0.25]))
    assert canvas[0, 0, 0].tolist() == [0.5, 0.5, 0.5, 0.5, 0.25, 0.25]


def test_the_first_of_equals_gets_the_gradient() -> None:
    soft = torch.full((2, 28, 28), 0.5, requires_grad=True)
    roi_flatten(soft, [make_rois([[0, 0, 4, 4]] * 2, [0, 0])], 1, (4, 4)).sum().backward()
    assert soft.grad[0].sum() == 16 and soft.grad[1].sum() == 0


def test_equals_a_loop_over_whole_canvases() -> None:
    for seed in range(5):
        soft, rois, size = random_case(seed)
        torch.testing.assert_close(roi_flatten(soft, rois, 3, size), slow_canvas(soft, rois, 3, size))


def test_gradients_are_exact() -> None:
    soft, rois, size = random_case(7, count=4)
    soft = soft[:, ::7, ::7].double().requires_grad_()
    weights = torch.linspace(0.3, 0.9, len(soft), dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda s, w: roi_flatten(s, rois, 3, size, w), (soft, weights))


def test_a_mirrored_image_has_a_mirrored_canvas() -> None:
    soft, rois, (height, width) = random_case(3)
    mirrored = [
        Rois(torch.stack([4 * width - x1, y0, 4 * width - x0, y1], dim=1), r.labels, r.scores)
        for r in rois
        for x0, y0, x1, y1 in [r.boxes.unbind(dim=1)]
    ]
    plain = roi_flatten(soft, rois, 3, (height, width))
    torch.testing.assert_close(roi_flatten(soft.flip(2), mirrored, 3, (height, width)), plain.flip(3))
    centred = make_rois([[0.5, 0.5, 3.5, 2.5]], [0])  # its edges run through centres, which both count
    assert roi_flatten(torch.ones(1, 28, 28), [centred], 1, (4, 5)).sum() == 12


def test_boxes_without_a_pixel_leave_no_trace() -> None:
    boxes = [[1.6, 0, 2.4, 4], [-9, -9, -5, -5], [9, 9, 12, 12], [2, 2, 2, 2]]
    assert roi_flatten(torch.ones(4, 28, 28), [make_rois(boxes, [0] * 4)], 1, (4, 4)).sum() == 0


def test_no_region_at_all_keeps_the_graph() -> None:
    soft = torch.zeros((0, 28, 28), requires_grad=True)
    canvas = roi_flatten(soft, [make_rois([], []), make_rois([], [])], 3, (4, 5))
    assert canvas.shape == (2, 3, 4, 5) and canvas.sum() == 0
    canvas.sum().backward()
    assert soft.grad is not None
