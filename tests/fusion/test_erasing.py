"""Unknown erasing: the oracles U1 and U2, and a loop over pixels."""

from __future__ import annotations

import math
from typing import get_args

import pytest
import torch

from helpers.small_images import rectangle, run
from panoptic_occ.common.errors import ConfigError
from panoptic_occ.fusion.erasing import StuffLabels, component_confidence
from panoptic_occ.fusion.policy import Dilation, FusionPolicy, Shape, Stride
from panoptic_occ.ops.components import components
from panoptic_occ.structures.semantic_map import VOID_LABEL, SemanticMap


def fragment() -> SemanticMap:
    """The map of U1: a pixel of class 2 amid class 1; the third class takes the rest of the probability."""
    probs = torch.zeros(3, 5, 5)  # the channels are the labels 0, 1, 2
    probs[1], probs[2] = 0.9, 0.05
    probs[1, 2, 2], probs[2, 2, 2] = 0.03, 0.95
    probs[0] = 1 - probs.sum(dim=0)
    return SemanticMap(probs.argmax(dim=0), probs.log())


def random_map(seed: int, size: tuple[int, int] = (13, 17)) -> SemanticMap:
    """Two thing classes (labels 0 and 1, void in the map) and three stuff classes, in patches."""
    generator = torch.Generator().manual_seed(seed)
    coarse = 3 * torch.randn((1, 5, 5, 6), generator=generator)
    logits = torch.nn.functional.interpolate(coarse, size=size, mode="bilinear")[0]
    labels = logits.argmax(dim=0)
    return SemanticMap(torch.where(labels < 2, VOID_LABEL, labels), logits)


def slow_confidence(semantic: SemanticMap, dilation: Dilation) -> list[float]:
    """Own-class probability over all cells within the radius (in both directions or, for a disk, as the crow flies) of
    a cell of the component; a cell's logits are the means over its pixels."""
    assert semantic.logits is not None
    radius, shape, stride = dilation
    numbers = components(semantic.labels).numbers
    height, width = numbers.shape
    cells = [(y, x) for y in range(-(-height // stride)) for x in range(-(-width // stride))]
    logits = semantic.logits.double()
    probs = {
        (y, x): logits[:, y * stride : (y + 1) * stride, x * stride : (x + 1) * stride].mean(dim=(1, 2)).softmax(dim=0)
        for y, x in cells
    }
    distance = math.hypot if shape == "disk" else lambda a, b: max(abs(a), abs(b))
    means = []
    for number in range(int(numbers.max()) + 1):
        pixels = (numbers == number).nonzero().tolist()
        channel = semantic.labels[tuple(pixels[0])] - semantic.first_label
        members = {(y // stride, x // stride) for y, x in pixels}
        near = [(y, x) for y, x in cells if any(stride * distance(y - v, x - u) <= radius for v, u in members)]
        means.append(sum(float(probs[cell][channel]) for cell in near) / len(near))
    return means


def test_erasing_after_the_things_looks_at_what_they_leave() -> None:
    """A thing cuts a sure region in two: the part around the doubtful pixels is erased alone, before it none is."""
    probs = torch.zeros(3, 4, 9)
    probs[1] = 0.9
    probs[1, :, 7:] = 0.25
    probs[0] = 1 - probs[1]
    semantic = SemanticMap(torch.ones(4, 9, dtype=torch.int64), probs.log())
    thing = [rectangle((0, 4), (5, 7), (4, 9))]
    for after, area in ((False, 28), (True, 20)):
        policy = FusionPolicy(max_occluded=0.5, stuff_area=0, erase_thr=0.6, erase_after=after)
        panoptic = run(thing, policy, semantic=StuffLabels(semantic).under(policy))
        assert {s.label: s.area for s in panoptic.segments} == {0: 8, 1: area}


def test_u1_a_fragment_amid_another_class_is_erased() -> None:
    semantic = fragment()
    # class 1 reaches around the fragment, so its dilated region is the whole image
    torch.testing.assert_close(
        component_confidence(semantic, Dilation(1)), torch.tensor([(24 * 0.9 + 0.03) / 25, 0.15])
    )
    torch.testing.assert_close(component_confidence(semantic, Dilation(0)), torch.tensor([0.9, 0.95]))
    labels = StuffLabels(semantic).under(FusionPolicy(erase_thr=0.4, erase_radius=1))
    expected = torch.ones(5, 5, dtype=torch.int64)
    expected[2, 2] = VOID_LABEL
    assert torch.equal(labels, expected), "the fragment is erased, not what lies around it"
    undilated = StuffLabels(semantic).under(FusionPolicy(erase_thr=0.4, erase_radius=0))
    assert torch.equal(undilated, semantic.labels), "without dilation its own confidence saves it"


@pytest.mark.parametrize("stride", get_args(Stride))
@pytest.mark.parametrize("shape", get_args(Shape))
@pytest.mark.parametrize("radius", [0, 1, 3, 6, 30])
def test_equals_a_loop_over_pixels(radius: int, shape: Shape, stride: int) -> None:
    dilation = Dilation(radius, shape, stride)
    for seed in range(3):
        semantic = random_map(seed)
        expected = torch.tensor(slow_confidence(semantic, dilation), dtype=torch.float32)
        torch.testing.assert_close(component_confidence(semantic, dilation), expected)


def test_a_disk_has_no_corners() -> None:
    """Around the pixel of U1: the 13 pixels of the disk of radius 2 where a square has 25."""
    semantic = fragment()
    for shape, pixels in (("square", 25), ("disk", 13)):
        confidence = component_confidence(semantic, Dilation(2, shape))[1]  # type: ignore[arg-type]
        assert confidence == pytest.approx((0.95 + 0.05 * (pixels - 1)) / pixels, abs=1e-6)


@pytest.mark.parametrize("shape", get_args(Shape))
def test_a_quarter_of_the_resolution_is_the_same_map_four_times_smaller(shape: Shape) -> None:
    """Every pixel of U1 as a block of 4 x 4, and the last blocks cut at the edge."""
    small = fragment()
    assert small.logits is not None
    labels = small.labels.repeat_interleave(4, 0).repeat_interleave(4, 1)[:18, :19]
    logits = small.logits.repeat_interleave(4, 1).repeat_interleave(4, 2)[:, :18, :19]
    for cells in (0, 1, 2):
        confidence = component_confidence(SemanticMap(labels, logits), Dilation(4 * cells, shape, 4))
        torch.testing.assert_close(confidence, component_confidence(small, Dilation(cells, shape)))
    policy = FusionPolicy(erase_thr=0.4, erase_radius=4, erase_shape=shape, erase_stride=4)
    erased = StuffLabels(SemanticMap(labels, logits)).under(policy)
    if shape == "square":
        assert torch.equal(erased == VOID_LABEL, labels == 2), "erased is the whole component, pixel by pixel"
    else:  # the four neighbours alone: (.95 + 4 * .05) / 5 = .23
        assert component_confidence(small, Dilation(1, shape))[1] == pytest.approx(0.23)


def test_stride_four_counts_every_cell_that_a_component_touches() -> None:
    """A component of 2 x 2 pixels on the corner of four cells has the means of these, and a pixel within one, one."""
    probs = torch.full((3, 8, 8), 0.1)
    probs[1] = 0.8
    probs[1, 3:5, 3:5], probs[2, 3:5, 3:5] = 0.1, 0.8
    semantic = SemanticMap(probs.argmax(dim=0), probs.log())
    # in each cell one of 16 pixels: ratio of class 1 to 2 is 8 ** (14 / 16), of class 0 to 2 is 8 ** (-1 / 16)
    probability = 1 / (1 + 8 ** (14 / 16) + 8 ** (-1 / 16))
    assert component_confidence(semantic, Dilation(0, stride=4))[1] == pytest.approx(probability, abs=1e-6)


def test_channels_count_from_the_first_label() -> None:
    semantic = random_map(0)
    assert semantic.logits is not None
    shifted = SemanticMap(torch.where(semantic.labels < 0, VOID_LABEL, semantic.labels + 7), semantic.logits, 7)
    assert torch.equal(component_confidence(shifted, Dilation(1)), component_confidence(semantic, Dilation(1)))


def test_exactly_the_threshold_stays_and_zero_erases_nothing() -> None:
    semantic = random_map(1)
    confidence = component_confidence(semantic, Dilation(1))
    stuff = StuffLabels(semantic)
    assert torch.equal(stuff.under(FusionPolicy(erase_thr=0.0, erase_radius=1)), semantic.labels)
    lowest = FusionPolicy(erase_thr=float(confidence.min()), erase_radius=1)
    assert torch.equal(stuff.under(lowest), semantic.labels)
    above = FusionPolicy(erase_thr=float(confidence.min()) + 1e-4, erase_radius=1)
    erased = stuff.under(above) != semantic.labels
    assert torch.equal(erased, components(semantic.labels).numbers == confidence.argmin())
    assert (stuff.under(FusionPolicy(erase_thr=1.0, erase_radius=1)) == VOID_LABEL).all()


def test_no_erasing_needs_no_probabilities() -> None:
    semantic = SemanticMap(random_map(0).labels)
    assert StuffLabels(semantic).under(FusionPolicy()) is semantic.labels


def test_stored_confidences_replace_the_logits() -> None:
    full = random_map(2)
    stored = SemanticMap(full.labels, confidence={"2": component_confidence(full, Dilation(2))})
    policy = FusionPolicy(erase_thr=0.6, erase_radius=2)
    erased = StuffLabels(full).under(policy)
    assert not torch.equal(erased, full.labels)
    assert torch.equal(StuffLabels(stored).under(policy), erased)
    with pytest.raises(ConfigError, match=r"fusion\.erase_radius=4 .*stored combination \(2\)"):
        StuffLabels(stored).under(FusionPolicy(erase_thr=0.6, erase_radius=4))
    for other in ({"erase_shape": "disk"}, {"erase_stride": 4}):
        with pytest.raises(ConfigError, match=r"erase_(shape=disk|stride=4).*stored combination \(2\)"):
            StuffLabels(stored).under(FusionPolicy(erase_thr=0.6, erase_radius=2, **other))  # type: ignore[arg-type]


def test_annotated_stuff_cannot_be_erased() -> None:
    with pytest.raises(ConfigError, match=r"stuff=ground_truth.* set fusion\.erase_thr=null"):
        StuffLabels(SemanticMap(random_map(0).labels)).under(FusionPolicy(erase_thr=0.4))


def test_policies_of_one_radius_share_the_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    from panoptic_occ.fusion import erasing

    radii: list[int] = []

    def counted(semantic: SemanticMap, dilation: Dilation, *rest: object) -> torch.Tensor:
        radii.append(dilation.radius)
        return component_confidence(semantic, dilation)

    monkeypatch.setattr(erasing, "component_confidence", counted)
    stuff = StuffLabels(random_map(3))
    for threshold in (0.3, 0.5, 0.7):
        for radius in (0, 2):
            stuff.under(FusionPolicy(erase_thr=threshold, erase_radius=radius))
    assert radii == [0, 2]


def test_an_image_without_stuff() -> None:
    semantic = SemanticMap(torch.full((3, 4), VOID_LABEL), torch.zeros(5, 3, 4))
    assert component_confidence(semantic, Dilation(1)).shape == (0,)
    assert torch.equal(StuffLabels(semantic).under(FusionPolicy(erase_thr=0.5)), semantic.labels)
