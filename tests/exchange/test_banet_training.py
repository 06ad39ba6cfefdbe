"""How BANet's two directions learn from each other."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from helpers.aggregation import batch_of, branches, exchange, inputs
from panoptic_occ.exchange.base import annotated_rois, sampled_count
from panoptic_occ.thing.base import Rois


def test_both_directions_learn_from_each_other() -> None:
    """L_I2S reaches the mask head and phi; L_mask reaches the semantic head."""
    thing, stuff = branches()
    module = exchange(stuff, context=32)
    losses = module.losses(inputs(thing.train(), stuff))
    losses.stuff["i2s"].backward(retain_graph=True)
    heads = thing.roi_heads
    assert module.i2s is not None
    reached = [next(heads.mask_head.parameters()), module.phi.weight, *module.i2s.parameters()]
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in reached)
    assert heads.mask_predictor[-1].weight.grad is None
    stuff.zero_grad()
    losses.thing["mask"].backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in stuff.stacks.parameters())


def test_images_without_instances_train() -> None:
    thing, stuff = branches()
    module = exchange(stuff)
    losses = module.losses(inputs(thing.train(), stuff, (0, 0)))
    total = torch.stack([*losses.thing.values(), *losses.stuff.values()]).sum()
    total.backward()
    assert torch.isfinite(total)
    assert all(p.grad is not None for p in module.parameters())


def test_sixty_to_a_hundred_percent_of_the_annotations_are_read_and_at_least_one() -> None:
    torch.manual_seed(6)
    targets = batch_of((10, 1, 0)).targets
    counts = []
    for _ in range(2000):
        ten, one, none = annotated_rois(targets, (0.6, 1.0))
        counts.append(len(ten))
        assert len(one) == 1 and len(none) == 0
        assert ten.matches is not None and len(ten.matches.unique()) == len(ten)
        assert torch.equal(ten.boxes, targets[0].boxes[ten.matches].float())
        assert torch.equal(ten.labels, targets[0].labels[ten.matches]) and (ten.scores == 1).all()
    # uniform on [6, 10] and rounded: half a unit of four for the ends, one unit for the others
    shares = [counts.count(k) / len(counts) for k in range(6, 11)]
    assert shares == pytest.approx([1 / 8, 1 / 4, 1 / 4, 1 / 4, 1 / 8], abs=0.04)
    assert {sampled_count(1, (0.0, 0.3)) for _ in range(20)} == {1}


def test_only_annotated_boxes_are_inlaid_in_training() -> None:
    thing, stuff = branches()
    module, read = exchange(stuff, keep=(0.5, 0.5)), inputs(thing.train(), stuff, (4, 1, 0))
    seen: list[list[Rois]] = []
    assert module.i2s is not None
    module.i2s.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[2]))
    module.losses(read)
    (rois,) = seen
    assert [len(r) for r in rois] == [2, 1, 0]
    for r, target in zip(rois, read.batch.targets, strict=True):
        assert all(any(torch.equal(box, other) for other in target.boxes) for box in r.boxes)


@pytest.mark.parametrize("training", [True, False])
def test_masks_weigh_what_is_inlaid(training: bool) -> None:
    """inlay=mask: every cell of F_ins by the mean probability of its 2x2 mask pixels, of the own class."""
    thing, stuff = branches()
    module, plain = exchange(stuff, inlay="mask", inlay_thr=0.0), exchange(stuff, inlay_thr=0.0)
    plain.load_state_dict(module.state_dict())
    crops: list[Tensor] = []
    rois: list[Rois] = []
    shares: list[Tensor | None] = []

    def look(_: nn.Module, inputs: Any) -> None:
        crops.append(inputs[1])
        shares.append(inputs[5])
        rois.extend(inputs[2])

    for each in (module, plain):
        assert each.i2s is not None
        each.i2s.register_forward_pre_hook(look)
        torch.manual_seed(2)
        if training:
            each.losses(inputs(thing.train(), stuff, (3, 2)))
        else:
            each.eval().outputs(inputs(thing.eval(), stuff, (3, 2)), 0.0, frozenset())
    (features, same), (weights, none) = crops, shares
    assert torch.equal(features, same) and weights is not None and none is None
    labels = torch.cat([r.labels for r in rois[:2]]).tolist()
    assert len(set(labels)) > training  # untrained, all detections are of one class
    logits = thing.mask_logits(features)
    for i, label in enumerate(labels):
        probability = logits[i, label + 1].sigmoid()
        for y, x in ((0, 0), (5, 9), (13, 13)):
            share = probability[2 * y : 2 * y + 2, 2 * x : 2 * x + 2].mean()
            assert torch.allclose(weights[i, y, x], share, atol=1e-6)


def test_masks_of_nothing_leave_the_neighbours_as_they_are() -> None:
    """Of two boxes on the same pixels, one with a mask of 0: the map is that of the other one alone."""
    module, semantic = exchange(branches()[1], inlay="mask").i2s, torch.randn(1, branches()[1].width, 16, 16)
    assert module is not None
    box, zero = torch.tensor([[8.0, 8.0, 40.0, 40.0]]), torch.zeros(1, dtype=torch.int64)
    inner = torch.randn(2, module.project_instances.in_channels, 14, 14)
    weights = torch.stack([torch.ones(14, 14), torch.zeros(14, 14)])
    both = Rois(box.expand(2, -1), zero.expand(2), torch.ones(2))
    alone = Rois(box, zero, torch.ones(1))
    output = module(semantic, inner, [both], [(64, 64)], True, weights)
    torch.testing.assert_close(output, module(semantic, inner[:1], [alone], [(64, 64)]))
    assert not torch.allclose(output, module(semantic, inner, [both], [(64, 64)]))


def test_masks_learn_from_where_they_are_inlaid() -> None:
    """inlay=mask: the second semantic loss also reaches the layers that make the mask of F_ins."""
    thing, stuff = branches()
    module = exchange(stuff, inlay="mask")
    nn.init.normal_(module.i2s.predictor.weight)  # type: ignore[union-attr]
    losses = module.losses(inputs(thing.train(), stuff))
    weight = thing.roi_heads.mask_predictor[-1].weight
    (gradient,) = torch.autograd.grad(losses.stuff["i2s"], [weight])
    assert gradient.abs().sum() > 0
    losses = module.losses(inputs(thing.train(), stuff, (0, 0)))
    assert torch.isfinite(losses.stuff["i2s"])
