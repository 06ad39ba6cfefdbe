"""Images whose annotations teach an occlusion module nothing never reach the base; losses and gradients stay."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from panoptic_occ.network.panoptic_fpn import PanopticFPN
from panoptic_occ.occlusion.base import OcclusionModel
from panoptic_occ.runs.build import plan_of
from panoptic_occ.runs.plan import build_model
from panoptic_occ.structures.sample import Sample
from panoptic_occ.testing import toy_categories, toy_sample

PAIRS = [toy_sample(4, seed, size=(64, 96)) for seed in (0, 1)]
NO_PAIR = [toy_sample(1, 2, size=(64, 160)), toy_sample(1, 3, size=(64, 96))]


def network(*words: str) -> PanopticFPN:
    torch.manual_seed(0)
    model = build_model(plan_of(["experiment=tiny", *words]), toy_categories())
    for part in model.base_modules().values():
        part.eval().requires_grad_(False)
    return model


def step(model: PanopticFPN, samples: list[Sample]) -> tuple[dict[str, Tensor], list[Tensor], list[int]]:
    """Losses, gradients and how many images the backbone saw at a time."""
    seen: list[int] = []
    hook = model.backbone.register_forward_pre_hook(lambda _, images: seen.append(len(images[0])))
    torch.manual_seed(1)  # the proposals that train are drawn
    losses = model.occlusion_losses(samples, torch.Generator().manual_seed(2))
    hook.remove()
    gradients = torch.autograd.grad(torch.stack(list(losses.values())).sum(), list(model.occlusion.parameters()))
    return {name: loss.detach() for name, loss in losses.items()}, list(gradients), seen


@pytest.mark.parametrize("words", ["method=ocfusion", "method=rap", "method=refine"])
def test_they_change_nothing(words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second image, wider than the others, decides the padding of all, and is left out."""
    model = network(words)
    samples = [PAIRS[0], NO_PAIR[0], PAIRS[1], NO_PAIR[1]]
    ours, gradients, seen = step(model, samples)
    monkeypatch.setattr(type(model.occlusion), "trainable_annotations", OcclusionModel.trainable_annotations)
    plain, others, all_seen = step(model, samples)
    assert (seen, all_seen) == ([2], [4])
    assert all(loss > 0 for loss in plain.values()) and any(bool(gradient.any()) for gradient in others)
    torch.testing.assert_close(ours, plain)
    torch.testing.assert_close(gradients, others, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("words", ["method=ocfusion", "method=rap", "method=refine", "occlusion=sognet"])
@pytest.mark.parametrize("samples", [NO_PAIR, [toy_sample(0, 4, size=(64, 96))]], ids=["single things", "no things"])
def test_nothing_to_learn_is_a_loss_of_zero(words: str, samples: list[Sample]) -> None:
    losses, gradients, seen = step(network(words), samples)
    assert sum(losses.values()) == 0
    assert not any(bool(gradient.any()) for gradient in gradients)
    assert seen == ([] if "sognet" not in words or not len(samples[0].annotations.labels) else [len(samples)])


def test_a_part_of_a_batch_keeps_padding_and_layout() -> None:
    batch: Any = network("method=ocfusion").batch([*PAIRS, NO_PAIR[0]], training=False)
    part = batch[[1, 0]]
    assert torch.equal(part.images, batch.images[[1, 0]]) and part.sizes == ((64, 96), (64, 96))
    assert part.images.is_contiguous(memory_format=torch.channels_last)
    assert [sample.image_id for sample in part.samples] == [1, 0]
