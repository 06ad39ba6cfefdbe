"""The network as a whole: the layout that it works in changes nothing but rounding."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from helpers.samples import assert_same
from panoptic_occ.backbone.resnet import resnet_fpn
from panoptic_occ.network.panoptic_fpn import PanopticFPN
from panoptic_occ.runs.build import plan_of
from panoptic_occ.runs.plan import build_model
from panoptic_occ.structures.base_output import BaseOutput
from panoptic_occ.testing import toy_categories, toy_sample

SAMPLES = [toy_sample(3, seed, size=(64, 96)) for seed in (0, 1)]
REQUIRES = frozenset({"soft", "roi_features", "semantic_logits"})


def network(*words: str) -> PanopticFPN:
    return build_model(plan_of(["experiment=tiny", "occlusion=score", *words]), toy_categories()).eval()


def layouts(model: PanopticFPN) -> list[bool]:
    """Whether the maps of the pyramid, and then those of the semantic head, come with their channels innermost."""
    seen: list[bool] = []
    hooks = [
        module.register_forward_hook(
            lambda _, __, out: seen.extend(
                f.is_contiguous(memory_format=torch.channels_last)
                for f in (out.values() if isinstance(out, dict) else [out])
                if min(f.shape[2:]) > 1  # both layouts are one in a single pixel
            )
        )
        for module in (model.backbone, model.stuff)
    ]
    model.base_outputs(SAMPLES, 0.05)
    for hook in hooks:
        hook.remove()
    return seen


def outputs_in(model: PanopticFPN, layout: torch.memory_format) -> list[BaseOutput]:
    batch = model.batch(SAMPLES)
    batch = replace(batch, images=batch.images.contiguous(memory_format=layout))
    outputs = model.exchange.outputs(model._inputs(batch), 0.05, REQUIRES)
    return [BaseOutput(instances, None, semantic) for instances, semantic in zip(*outputs, strict=True)]  # type: ignore[arg-type]


def with_resnet() -> PanopticFPN:
    model = network()
    model.backbone = resnet_fpn("resnet18", out_channels=32, norm="frozen").eval()
    return model


@pytest.mark.parametrize("make", [network, with_resnet])
def test_inference_on_a_cpu_has_the_channels_innermost(make: Callable[[], PanopticFPN]) -> None:
    model = make()
    before = {name: tensor.stride() for name, tensor in model.state_dict().items()}
    assert len(layouts(model)) >= 4 and all(layouts(model))
    assert {name: tensor.stride() for name, tensor in model.state_dict().items()} == before


def test_training_keeps_its_layout() -> None:
    assert network().batch(SAMPLES).images.is_contiguous()
    last = network("channels_last=true").batch(SAMPLES).images
    assert last.is_contiguous(memory_format=torch.channels_last)


def test_the_layout_does_not_change_what_is_found() -> None:
    model = network()
    ours = model.base_outputs(SAMPLES, 0.05, REQUIRES)
    for output, plain in zip(ours, outputs_in(model, torch.contiguous_format), strict=True):
        assert len(output.instances) > 3, "this random network finds too little to compare"
        assert torch.equal(output.instances.labels, plain.instances.labels)
        torch.testing.assert_close(output.instances.boxes, plain.instances.boxes, atol=1e-3, rtol=1e-4)
        torch.testing.assert_close(output.instances.soft, plain.instances.soft, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(output.instances.roi_features, plain.instances.roi_features, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(output.semantic.logits, plain.semantic.logits, atol=1e-4, rtol=1e-4)


def test_labels_are_those_of_the_logits() -> None:
    model = network("stuff=pfpn")  # its first channel is not the first label
    with_logits, without = (model.base_outputs(SAMPLES, 0.05, requires) for requires in (REQUIRES, frozenset()))
    for output, plain in zip(without, with_logits, strict=True):
        assert output.semantic.logits is None and plain.semantic.logits is not None
        assert output.semantic.first_label == plain.semantic.first_label
        assert torch.equal(output.semantic.labels, plain.semantic.labels)


def test_half_precision_on_a_cpu() -> None:
    model = with_resnet()
    with torch.autocast("cpu", torch.bfloat16):
        outputs = model.base_outputs(SAMPLES, 0.05, REQUIRES)
    for output in outputs:
        assert output.instances.boxes.dtype == output.semantic.logits.dtype == torch.float32  # type: ignore[union-attr]
        assert torch.isfinite(output.instances.soft).all()  # type: ignore[arg-type]


@pytest.mark.parametrize("words", [(), ("exchange=banet",), ("exchange=ibpp",), ("tta=flip_multiscale",)], ids=str)
def test_an_image_has_the_same_outputs_in_every_batch(words: tuple[str, ...]) -> None:
    """Padding to the largest image would reach GroupNorm; also images of one size are rounded otherwise together."""
    model = network(*words)
    samples = [
        toy_sample(3, k, size=size) for k, size in enumerate([(64, 96), (96, 64), (64, 96), (70, 90), (128, 64)])
    ]
    alone = [model.base_outputs([sample], 0.05, REQUIRES)[0] for sample in samples]
    assert sum(len(output.instances) for output in alone) > 10, "this random network finds too little to compare"
    for size in (2, len(samples)):
        batches = [samples[k : k + size] for k in range(0, len(samples), size)]
        together = [output for batch in batches for output in model.base_outputs(batch, 0.05, REQUIRES)]
        for first, second in zip(alone, together, strict=True):
            assert_same(first.instances, second.instances)
            assert_same(first.semantic, second.semantic)
