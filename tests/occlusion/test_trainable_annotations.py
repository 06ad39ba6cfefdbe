"""Proposals of annotations that teach nothing can be left out: losses, gradients and draws stay the same."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from panoptic_occ.occlusion.base import OcclusionModel, TrainingExample
from panoptic_occ.occlusion.ocfusion import OCFusion
from panoptic_occ.occlusion.rap import RAP
from panoptic_occ.occlusion.refine import SoftOcclusion
from panoptic_occ.testing import toy_categories, toy_example

METHODS: dict[str, Any] = {
    "ocfusion": (OCFusion, {}),
    "ocfusion, few pairs": (OCFusion, {"pairs_per_image": 2, "sig_ratio": 0.4, "gt_rule": "delta"}),
    "refine": (SoftOcclusion, {"pairs_per_image": 3}),
    "refine, fewer pixels lost": (SoftOcclusion, {"gt_rule": "delta"}),
    "rap": (RAP, {}),
    "rap, few pairs": (RAP, {"pairs_per_image": 2, "gt_sig_ratio": 0.4, "overlap_filter": True}),
}


def losses(model: OcclusionModel, examples: list[TrainingExample]) -> tuple[Tensor, list[Tensor]]:
    loss = torch.stack(list(model.loss(examples, torch.Generator().manual_seed(1)).values())).sum()
    return loss.detach(), list(torch.autograd.grad(loss, list(model.parameters())))


@pytest.mark.parametrize("name", METHODS)
def test_losses_do_not_need_the_others(name: str) -> None:
    method, options = METHODS[name]
    torch.manual_seed(0)
    model = method(in_channels=4, categories=toy_categories(), **options)
    examples = [toy_example(count, seed) for seed, count in enumerate((7, 2, 1, 9, 12))]
    taught = [model.trainable_annotations(example.target)[example.matches] for example in examples]
    kept = [
        replace(example, instances=example.instances[keep], matches=example.matches[keep])
        for example, keep in zip(examples, taught, strict=True)
    ]
    assert 0 < sum(map(len, (e.matches for e in kept))) < sum(map(len, (e.matches for e in examples)))
    (loss, gradients), (same, others) = losses(model, examples), losses(model, kept)
    assert loss > 0
    torch.testing.assert_close(same, loss)
    for one, other in zip(gradients, others, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
