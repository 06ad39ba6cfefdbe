"""Boxes that move between the iterations of IBPP, against torchvision's parts put together by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from helpers.projection import SIZE, Base
from panoptic_occ.exchange.base import annotated_rois
from panoptic_occ.exchange.box_cascade import SMALLEST, BoxCascade
from panoptic_occ.network.tta import FixedRois, View
from panoptic_occ.thing.base import Rois
from panoptic_occ.thing.mask_head import mask_loss
from panoptic_occ.thing.oracle import RoiOracle

CASCADE: dict[str, Any] = {"boxes": "cascade"}


@pytest.mark.parametrize("options", [{"iterations": 1, **CASCADE}, {"iterations": 3, **CASCADE}])
def test_boxes_that_do_not_move_are_the_fixed_ones(options: dict[str, Any]) -> None:
    still, fixed = Base(**options), Base(**(options | {"boxes": "fixed"}))
    for head in still.exchange.cascade.heads:
        torch.nn.init.zeros_(head[1].weight)
    fixed.exchange.load_state_dict(
        {key: value for key, value in still.exchange.state_dict().items() if not key.startswith("cascade")}
    )
    fixed.features = still.features
    for ours, theirs in zip(still.outputs()[0], fixed.outputs()[0], strict=True):
        torch.testing.assert_close(ours.boxes, theirs.boxes)
        torch.testing.assert_close(ours.soft, theirs.soft, rtol=1e-4, atol=1e-5)


def test_offsets_learn_the_annotated_box_and_pass_no_gradient_on() -> None:
    """The loss by the definition of the offsets: centres in 1/10, logarithms of sizes in 1/5 of the box."""
    base = Base((2,), iterations=2, **CASCADE)
    target = base.batch.targets[0]
    gx0, gy0, gx1, gy1 = target.boxes[1].float().tolist()
    rois = [Rois(torch.tensor([[10.0, 12, 30, 44]]), target.labels[1:2], torch.ones(1), torch.tensor([1]))]
    offsets = torch.tensor([[0.3, -0.2, 0.1, 0.5]], requires_grad=True)
    truth = torch.tensor(
        [
            *(10 * ((gx0 + gx1) / 2 - 20) / 20, 10 * ((gy0 + gy1) / 2 - 28) / 32),
            *(5 * torch.tensor((gx1 - gx0) / 20).log(), 5 * torch.tensor((gy1 - gy0) / 32).log()),
        ]
    )
    error = (offsets.detach()[0] - truth).abs()
    expected = torch.where(error < 1 / 9, error**2 * 9 / 2, error - 1 / 18).sum() * 0.25  # a quarter is positive
    torch.testing.assert_close(BoxCascade.loss(base.thing, rois, offsets, base.batch.targets), expected)
    nothing = [rois[0][torch.arange(0)]]
    assert BoxCascade.loss(base.thing, nothing, offsets[:0], base.batch.targets).item() == 0
    assert not BoxCascade.moved(base.thing, rois, offsets, [(SIZE, SIZE)])[0].boxes.requires_grad


def test_a_box_that_would_leave_the_image_stays() -> None:
    base = Base((1,), iterations=2, **CASCADE)
    boxes = torch.tensor([[0.0, 0, 8, 8], [20, 20, 40, 40], [20, 20, 40, 40]])
    rois = [Rois(boxes, torch.zeros(3, dtype=torch.int64), torch.ones(3))]
    offsets = torch.tensor([[-200.0, 0, 0, 0], [0, 0, -30, 0], [10.0, 0, 0, 0]])  # off to the left; too thin; one width
    (after,) = BoxCascade.moved(base.thing, rois, offsets, [(SIZE, SIZE)])
    torch.testing.assert_close(after.boxes, torch.tensor([[0.0, 0, 8, 8], [20, 20, 40, 40], [40, 20, 60, 40]]))
    assert SMALLEST == 1.0


def test_masks_learn_in_the_boxes_of_their_iteration() -> None:
    """Moved boxes have other targets: a perfect mask of the first box is none of the second."""
    base = Base((3, 2), iterations=2, train_boxes="proposals", **CASCADE).moving(0.2)
    torch.manual_seed(1)
    losses = base.losses()
    torch.manual_seed(1)
    _, positive = base.thing.box_losses(base.features.thing, base.batch)
    refined = base.refine(positive)
    assert [torch.equal(a.boxes, b.boxes) for a, b in zip(positive, refined.rois[0], strict=True)] == [True, True]
    assert not torch.allclose(refined.rois[0][0].boxes, refined.rois[1][0].boxes)
    for t, (rois, logits) in enumerate(zip(refined.rois, refined.masks, strict=True), start=1):
        torch.testing.assert_close(losses[f"mask_{t}"], mask_loss(logits, rois, base.batch.targets))
    in_old_boxes = mask_loss(refined.masks[1], refined.rois[0], base.batch.targets)
    assert (losses["mask_2"] - in_old_boxes).abs() > 1e-3


def test_shown_and_wanted_regions_move_alike() -> None:
    base = Base(iterations=3, **CASCADE).moving()
    positive = annotated_rois(base.batch.targets, (1.0, 1.0))
    shown = base.detected()
    alone, together = base.refine(shown), base.refine(positive, shown)
    for separate, both in zip(alone.semantics, together.semantics, strict=True):
        torch.testing.assert_close(separate, both, rtol=1e-4, atol=1e-5)
    for r, p in zip(together.rois[-1], positive, strict=True):
        assert len(r) == len(p) and torch.equal(r.matches, p.matches) and not torch.allclose(r.boxes, p.boxes)


@pytest.mark.parametrize("oracle", ["view", "annotated"])
def test_boxes_that_are_given_stay(oracle: str) -> None:
    """Those of the plain view while others are averaged into it, and annotated ones."""
    base = Base(iterations=3, **CASCADE).moving()
    plain = base.outputs()[0]
    fixed = FixedRois(View(1.0, False), plain) if oracle == "view" else RoiOracle(boxes=True)
    base.thing.use_oracle(fixed)
    given = base.thing.find(base.features.thing, base.batch, 0.0)
    seen = base.outputs()[0]
    for one, r in zip(seen, given, strict=True):
        assert torch.equal(one.boxes, r.boxes)
    base.thing.use_oracle(RoiOracle(classes=True))
    assert not all(torch.equal(a.boxes, r.boxes) for a, r in zip(base.outputs()[0], base.detected(), strict=True))
