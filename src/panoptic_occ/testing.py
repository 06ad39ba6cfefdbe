"""Tests that every order must pass, also one from outside the repository.

from panoptic_occ.testing import OcclusionContract

class TestMine(OcclusionContract):
    def build(self, **common):
        return Mine(**common)
"""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from panoptic_occ.fusion.engine import fuse
from panoptic_occ.fusion.policy import FusionPolicy
from panoptic_occ.occlusion.base import Context, OcclusionModel, TrainingExample
from panoptic_occ.ops.ground_truth_relation import ground_truth_relation
from panoptic_occ.structures.categories import Categories
from panoptic_occ.structures.instances import InstanceSet
from panoptic_occ.structures.masks import MaskCrops, PairStats
from panoptic_occ.structures.panoptic_map import PanopticMap, Segment
from panoptic_occ.structures.relation import Relation
from panoptic_occ.structures.sample import Sample
from panoptic_occ.structures.semantic_map import VOID_LABEL, SemanticMap
from panoptic_occ.structures.target import Target

IN_CHANNELS = 4


def toy_categories(things: int = 3, stuff: int = 2) -> Categories:
    """Categories with ids 1, 2, ...: things first."""
    return Categories.from_json(
        {"id": k + 1, "name": f"category {k}", "isthing": int(k < things)} for k in range(things + stuff)
    )


def toy_target(masks: Bool[Tensor, "k h w"], labels: Int[Tensor, " k"]) -> Target:
    """Annotations of full masks, the first one behind all others and the last one in front."""
    count = len(masks)
    crops = MaskCrops.from_dense(masks)
    ids = torch.zeros(masks.shape[1:], dtype=torch.int64)
    for k, mask in enumerate(masks):
        ids[mask] = k + 1
    areas = torch.bincount(ids.flatten(), minlength=count + 1)[1:].tolist()
    segments = tuple(Segment(k + 1, int(labels[k]), True, area) for k, area in enumerate(areas) if area)
    relation = ground_truth_relation(crops, torch.arange(1, count + 1), ids)
    return Target(crops.boxes, labels, crops, PanopticMap(ids, segments), relation, torch.arange(count))


def toy_sample(count: int, seed: int = 0, things: int = 3, size: tuple[int, int] = (20, 30)) -> Sample:
    """An image of noise with ``count`` overlapping ellipses as annotations."""
    generator = torch.Generator().manual_seed(seed)
    height, width = size
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    numbers = torch.rand((count, 4, 1, 1), generator=generator)
    center_y, center_x = (0.25 + 0.5 * numbers[:, 0]) * height, (0.25 + 0.5 * numbers[:, 1]) * width
    radius_y, radius_x = (0.15 + 0.25 * numbers[:, 2]) * height, (0.15 + 0.25 * numbers[:, 3]) * width
    masks = ((y - center_y) / radius_y) ** 2 + ((x - center_x) / radius_x) ** 2 < 1
    labels = torch.randint(0, things, (count,), generator=generator)
    image = torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8)
    return Sample(image, seed, f"toy {seed}", size, toy_target(masks, labels))


def toy_detections(target: Target, seed: int = 0, in_channels: int = IN_CHANNELS) -> InstanceSet:
    """The annotations as detections: distinct scores in falling order that say nothing about depth, random features."""
    generator = torch.Generator().manual_seed(seed + 1)
    count = len(target.masks)
    shuffle = torch.randperm(count, generator=generator)
    return _instances(target, shuffle, torch.linspace(0.95, 0.55, count), generator, in_channels)


def _instances(
    target: Target, matches: Int[Tensor, " n"], scores: Tensor, generator: torch.Generator, in_channels: int
) -> InstanceSet:
    """The annotations at ``matches`` with random soft masks and features."""
    count = len(matches)
    return InstanceSet(
        masks=target.masks[matches],
        boxes=target.boxes[matches],
        scores=scores,
        labels=target.labels[matches],
        soft=torch.rand((count, 28, 28), generator=generator),
        roi_features=torch.randn((count, in_channels, 14, 14), generator=generator),
    )


def toy_semantic(sample: Sample, things: int = 3, stuff: int = 2) -> SemanticMap:
    """Random logits of all categories at every pixel, and the stuff they show."""
    generator = torch.Generator().manual_seed(sample.image_id + 4)
    logits = torch.randn((things + stuff, *sample.original_size), generator=generator)
    labels = logits.argmax(dim=0)
    return SemanticMap(torch.where(labels < things, VOID_LABEL, labels), logits)


def toy_example(count: int, seed: int = 0, in_channels: int = IN_CHANNELS) -> TrainingExample:
    """Two proposals per annotation, with the annotation's own mask."""
    target = toy_sample(count, seed).annotations
    matches = torch.arange(count).repeat(2)
    generator = torch.Generator().manual_seed(seed + 2)
    instances = _instances(target, matches, torch.ones(2 * count), generator, in_channels)
    return TrainingExample(instances, matches, target)


class OcclusionContract:
    """What the suite relies on in every order; inherit, and write ``build``."""

    counts = (0, 1, 2, 7)
    seeds = (0, 1)

    def build(self, *, in_channels: int, categories: Categories) -> OcclusionModel:
        """The order under test."""
        raise NotImplementedError

    def test_shapes_and_meaning(self) -> None:
        """(N, N) for every N, also 0 and 1; finite; nobody lies above itself; the flags tell the truth."""
        model = self._model()
        for instances, relation in self._relations(model):
            n = len(instances)
            assert relation.margin.shape == relation.valid.shape == (n, n), "margin and valid must be (N, N)"
            assert relation.margin.is_floating_point(), "margin must be a float tensor"
            assert relation.valid.dtype == torch.bool, "valid must be a bool tensor"
            assert not relation.valid.diagonal().any(), "an instance has no relation to itself"
            assert relation.margin[relation.valid].isfinite().all(), "a valid margin must be finite"
            assert not (relation.valid & (PairStats.of(instances.masks).inter == 0)).any(), "a valid pair must overlap"
            if relation.antisymmetric:
                assert torch.equal(relation.margin, -relation.margin.T), "the margin is not antisymmetric as it claims"
            if relation.value is not None:
                assert relation.value.shape == (n,), "value must be (N,)"
            if relation.order is not None:
                assert sorted(relation.order.tolist()) == list(range(n)), "order must name every instance once"

    def test_the_fusion_accepts_it(self) -> None:
        """The relation leads to a map in which every thing pixel lies in its instance's mask."""
        model = self._model()
        for instances, relation in self._relations(model):
            panoptic = _fused(instances, relation)
            dense = instances.masks.dense()
            for segment in panoptic.segments:
                assert segment.instance is not None
                assert dense[segment.instance][panoptic.ids == segment.id].all()

    def test_determinism(self) -> None:
        """The same input gives the same relation twice, and stays as it was."""
        model = self._model()
        sample, instances = self._case(7, 0)
        before = instances.masks.pixels.clone(), instances.scores.clone()
        first, second = (self._relation(model, sample, instances) for _ in range(2))
        assert torch.equal(first.margin, second.margin) and torch.equal(first.valid, second.valid)
        assert torch.equal(before[0], instances.masks.pixels) and torch.equal(before[1], instances.scores)

    def test_the_order_of_the_input_does_not_matter(self) -> None:
        """Permuting instances of distinct scores permutes the relation and leaves the fused map alone."""
        model = self._model()
        sample, instances = self._case(7, 0)
        permutation = torch.tensor([3, 0, 6, 1, 5, 2, 4])
        plain, permuted = (self._relation(model, sample, i) for i in (instances, instances[permutation]))
        assert torch.equal(permuted.valid, plain.valid[permutation][:, permutation])
        expected = plain.margin[permutation][:, permutation]
        torch.testing.assert_close(permuted.margin, expected, rtol=1e-4, atol=1e-5)
        assert torch.equal(_fused(instances[permutation], permuted).ids, _fused(instances, plain).ids)

    def test_gradients_reach_every_parameter(self) -> None:
        """A batch with pairs moves the loss; one without any gives 0 and still a gradient (of 0) everywhere."""
        model = self._model()
        if not model.trainable:
            return
        empty = toy_example(1)
        for examples, has_pairs in (([toy_example(5), toy_example(4, seed=1)], True), ([empty, empty], False)):
            model.zero_grad(set_to_none=True)
            losses = self._loss(model, examples)
            assert losses and all(loss.shape == () and loss.isfinite() for loss in losses.values())
            total = torch.stack(list(losses.values())).sum()
            assert (total.item() > 0) == has_pairs
            total.backward()
            for name, parameter in model.named_parameters():
                assert parameter.grad is not None, f"no gradient reaches {name}"
                assert parameter.grad.isfinite().all(), f"the gradient of {name} is not finite"

    def test_the_loss_depends_on_its_generator_only(self) -> None:
        """The same generator state gives the same loss."""
        model = self._model()
        if not model.trainable:
            return
        examples = [toy_example(6), toy_example(1), toy_example(5, seed=1)]
        first = self._loss(model, examples)
        torch.rand(3)  # the global generator must not matter
        second = self._loss(model, examples)
        assert first.keys() == second.keys()
        assert all(torch.equal(first[name], second[name]) for name in first)

    def _model(self) -> OcclusionModel:
        torch.manual_seed(0)
        return self.build(in_channels=IN_CHANNELS, categories=toy_categories())

    def _case(self, count: int, seed: int) -> tuple[Sample, InstanceSet]:
        sample = toy_sample(count, seed)
        return sample, toy_detections(sample.annotations, seed)

    def _relations(self, model: OcclusionModel) -> list[tuple[InstanceSet, Relation]]:
        cases = [self._case(count, seed) for count in self.counts for seed in self.seeds]
        return [(instances, self._relation(model, sample, instances)) for sample, instances in cases]

    def _relation(self, model: OcclusionModel, sample: Sample, instances: InstanceSet) -> Relation:
        """The relation from what the order ``requires`` and nothing else."""
        if "class_table" in model.requires:
            model.use_class_table(torch.arange(9).view(3, 3))
        context = Context(
            image=sample.image if "image" in model.requires else None,
            target=sample.target if "target" in model.requires else None,
            semantic=toy_semantic(sample) if "semantic_logits" in model.requires else None,
        )
        instances = replace(
            instances,
            soft=instances.soft if "soft" in model.requires else None,
            roi_features=instances.roi_features if "roi_features" in model.requires else None,
        )
        with torch.no_grad():
            return model.eval().forward(instances, PairStats.of(instances.masks), context)

    def _loss(self, model: OcclusionModel, examples: list[TrainingExample]) -> dict[str, Tensor]:
        return model.train().loss(examples, torch.Generator().manual_seed(3))


def _fused(instances: InstanceSet, relation: Relation) -> PanopticMap:
    return fuse(instances, PairStats.of(instances.masks), relation, None, FusionPolicy(min_visible=0.3))
