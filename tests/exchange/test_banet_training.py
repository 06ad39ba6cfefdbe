"""How BANet's two directions learn from each other."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from helpers.aggregation import batch_of, branches, exchange, pyramids
from panoptic_occ.exchange.sampling import sampled_count
from panoptic_occ.thing.base import Rois


def test_both_directions_learn_from_each_other() -> None:
    """L_I2S reaches the mask head and phi; L_mask reaches the semantic head."""
    thing, stuff = branches()
    module = exchange(stuff, context=32)
    losses = module.losses(thing.train(), stuff, pyramids(), batch_of((2, 3)))
    losses.stuff["i2s"].backward(retain_graph=True)
    heads = thing.roi_heads
    reached = [heads.mask_head[0][0].weight, module.phi.weight, *(p for p in module.i2s.parameters())]  # type: ignore
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in reached)
    assert heads.mask_predictor[-1].weight.grad is None
    stuff.zero_grad()
    losses.thing["mask"].backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in stuff.stacks.parameters())


def test_images_without_instances_train() -> None:
    thing, stuff = branches()
    module = exchange(stuff)
    losses = module.losses(thing.train(), stuff, pyramids(), batch_of((0, 0)))
    total = torch.stack([*losses.thing.values(), *losses.stuff.values()]).sum()
    total.backward()
    assert torch.isfinite(total)
    assert all(p.grad is not None for p in module.parameters())


def test_kept_boxes_are_sixty_to_a_hundred_percent_and_at_least_one() -> None:
    torch.manual_seed(6)
    drawn = [sampled_count(10, (0.6, 1.0)) for _ in range(2000)]
    shares = [drawn.count(k) / len(drawn) for k in range(6, 11)]
    assert sum(shares) == pytest.approx(1)
    # uniform on [6, 10] and rounded: half a unit of four for the ends, one unit for the others
    assert shares == pytest.approx([1 / 8, 1 / 4, 1 / 4, 1 / 4, 1 / 8], abs=0.04)
    assert {sampled_count(1, (0.0, 0.3)) for _ in range(20)} == {1}
    assert sampled_count(0, (0.6, 1.0)) == 0


def test_only_annotated_boxes_are_inlaid_in_training() -> None:
    thing, stuff = branches()
    module, batch = exchange(stuff, keep=(0.5, 0.5)), batch_of((4, 1, 0))
    seen: list[list[Rois]] = []
    assert module.i2s is not None
    module.i2s.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[2]))
    module.losses(thing.train(), stuff, pyramids(3), batch)
    (rois,) = seen
    assert [len(r) for r in rois] == [2, 1, 0]
    for r, target in zip(rois, batch.targets, strict=True):
        assert all(any(torch.equal(box, other) for other in target.boxes) for box in r.boxes)


@pytest.mark.parametrize("training", [True, False])
def test_masks_weigh_what_is_inlaid(training: bool) -> None:
    """inlay=mask: every cell of F_ins times the mean probability of its 2x2 mask pixels, of the own class."""
    thing, stuff = branches()
    module, plain = exchange(stuff, inlay="mask", inlay_thr=0.0), exchange(stuff, inlay_thr=0.0)
    plain.load_state_dict(module.state_dict())
    crops: list[Tensor] = []
    rois: list[Rois] = []
    batch = batch_of((3, 2))

    def look(_: nn.Module, inputs: Any) -> None:
        crops.append(inputs[1])
        rois.extend(inputs[2])

    for own in (module, plain):
        assert own.i2s is not None
        own.i2s.register_forward_pre_hook(look)
        torch.manual_seed(2)
        if training:
            own.losses(thing.train(), stuff, pyramids(), batch)
        else:
            own.eval().outputs(thing.eval(), stuff, pyramids(), batch, 0.0, frozenset())
    weighted, features = crops
    labels = torch.cat([r.labels for r in rois[: len(batch.samples)]]).tolist()
    assert len(set(labels)) > training  # untrained, all detections are of one class
    logits = thing.mask_logits(features)
    for i, label in enumerate(labels):
        probability = logits[i, label + 1].sigmoid()
        for y, x in ((0, 0), (5, 9), (13, 13)):
            share = probability[2 * y : 2 * y + 2, 2 * x : 2 * x + 2].mean()
            assert torch.allclose(weighted[i, :, y, x], features[i, :, y, x] * share, atol=1e-6)
