"""Test-time augmentation: frames, averages, and a network that sees the same in every view."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from panoptic_occ.common.errors import ConfigError
from panoptic_occ.network.tta import TestTimeAugmentation, View, averaged
from panoptic_occ.runs.build import plan_of
from panoptic_occ.runs.plan import build_model
from panoptic_occ.structures.instances import InstanceSet
from panoptic_occ.structures.sample import Sample
from panoptic_occ.structures.semantic_map import SemanticMap
from panoptic_occ.testing import toy_categories, toy_detections, toy_sample
from panoptic_occ.thing.paste import paste_masks

SIZE = (64, 96)


def sample_of(seed: int) -> Sample:
    return toy_sample(3, seed, size=SIZE)


def model_with(*words: str, seed: int = 0):  # type: ignore[no-untyped-def]
    return build_model(plan_of(["experiment=tiny", "occlusion=score", *words]), toy_categories()).eval()


def test_views_are_all_combinations_without_the_plain_one() -> None:
    assert TestTimeAugmentation().views == ()
    assert TestTimeAugmentation(flip=True).views == (View(1.0, True),)
    views = TestTimeAugmentation([0.5, 1.0], flip=True).views
    assert set(views) == {View(0.5, False), View(0.5, True), View(1.0, True)}
    with pytest.raises(ConfigError, match=r"must contain 1\.0"):
        TestTimeAugmentation([0.5, 2.0])


def test_boxes_go_to_where_the_view_shows_them() -> None:
    boxes = torch.tensor([[10.0, 20.0, 30.0, 50.0]])
    assert View(2.0, False).place(boxes, (100, 200), (200, 400)).tolist() == [[20, 40, 60, 100]]
    assert View(1.0, True).place(boxes, (100, 200), (100, 200)).tolist() == [[170, 20, 190, 50]]
    # the image itself is mirrored the same way
    sample = sample_of(0)
    shown = View(1.0, True).show(sample)
    assert torch.equal(shown.image[:, :, 0], sample.image[:, :, -1])
    assert View(0.5, False).show(sample).image.shape == (3, 32, 48)


def test_masks_are_averaged_as_probabilities_and_stuff_as_logits() -> None:
    target = sample_of(1).annotations
    plain = toy_detections(target)
    assert plain.soft is not None
    other = replace(plain, soft=plain.soft.flip(-1) * 0.5)  # as a mirrored view gives it
    logits = torch.randn(5, *SIZE, generator=torch.Generator().manual_seed(0))
    more = torch.randn(5, *SIZE, generator=torch.Generator().manual_seed(1))
    seen = [SemanticMap(torch.zeros(SIZE, dtype=torch.int64), x) for x in (logits, more)]
    view = View(1.0, True)
    (instances,), (semantic,) = averaged(([plain], [seen[0]]), [(view, ([other], [seen[1]]))], num_things=3)
    expected = plain.soft * 0.75
    torch.testing.assert_close(instances.soft, expected)
    assert torch.equal(instances.masks.dense(), paste_masks(expected, plain.boxes, SIZE).dense())
    mean = (logits + more.flip(-1)) / 2
    best = mean.argmax(dim=0)
    assert torch.equal(semantic.labels, torch.where(best < 3, -1, best))


def test_a_view_that_sees_the_same_changes_nothing() -> None:
    """The mirrored view of an image is the plain view of its mirror image, mirrored back."""
    model = model_with()
    samples = [sample_of(0), sample_of(1)]
    plain = model.base_outputs(samples, 0.05, frozenset({"soft", "semantic_logits"}))
    assert sum(len(output.instances) for output in plain) > 3, "this random network finds too little to compare"
    mirrored = [View(1.0, True).show(sample) for sample in samples]
    model.tta = TestTimeAugmentation(flip=True)
    both = model.base_outputs(samples, 0.05)
    model.tta = TestTimeAugmentation()
    alone = model.base_outputs(mirrored, 0.05, frozenset({"semantic_logits"}))
    for k, output in enumerate(both):
        assert torch.equal(output.instances.boxes, plain[k].instances.boxes)  # boxes are not augmented
        expected = (plain[k].semantic.logits + alone[k].semantic.logits.flip(-1)) / 2
        torch.testing.assert_close(output.semantic.logits, expected, rtol=1e-4, atol=1e-5)
        assert not torch.equal(output.instances.soft, plain[k].instances.soft)
    assert model.thing.oracle is None


@pytest.mark.parametrize("exchange", ["none", "banet", "ibpp"])
def test_every_exchange_takes_the_boxes_of_the_plain_view(exchange: str) -> None:
    model = model_with(f"exchange={exchange}", "tta=flip_multiscale", "tta.scales=[1.0,1.5]")
    assert len(model.tta.views) == 3
    (output,) = model.base_outputs([sample_of(0)], 0.05)
    model.tta = TestTimeAugmentation()
    (plain,) = model.base_outputs([sample_of(0)], 0.05)
    assert torch.equal(output.instances.boxes, plain.instances.boxes)
    assert output.semantic.labels.shape == SIZE and output.instances.masks.size == SIZE


@pytest.mark.parametrize("exchange", ["banet", "ibpp"])
def test_the_stuff_does_not_depend_on_which_detections_are_asked_for(exchange: str) -> None:
    """The stuff branch of every view sees the detections that it would see in the plain one."""
    words = ["exchange.inlay_thr=0.05"] if exchange == "banet" else []
    model = model_with(f"exchange={exchange}", "tta=flip", *words)
    (every,) = model.base_outputs([sample_of(0)], 0.05)
    bar = float(every.instances.scores.median())
    (best,) = model.base_outputs([sample_of(0)], bar)
    assert 0 < len(best.instances) < len(every.instances) and best.instances.scores.min() >= bar
    assert torch.equal(best.semantic.logits, every.semantic.logits)


def test_an_oracle_base_is_refused() -> None:
    model = build_model(plan_of(["experiment=oracle_base", "tta=flip"]), toy_categories()).eval()
    with pytest.raises(ConfigError, match="tta=none"):
        model.base_outputs([sample_of(0)], 0.5)


def test_instances_without_masks_are_refused() -> None:
    instances = toy_detections(sample_of(0).annotations)
    bare = InstanceSet(instances.masks, instances.boxes, instances.scores, instances.labels)
    with pytest.raises(ConfigError, match="soft masks"):
        averaged(([bare], [SemanticMap(torch.zeros(SIZE, dtype=torch.int64))]), [], num_things=3)
