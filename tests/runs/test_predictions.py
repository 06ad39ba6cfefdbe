"""What is stored of a base's output is what is read again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage

from helpers.samples import assert_same
from panoptic_occ.common.errors import CheckpointError
from panoptic_occ.runs.predictions import (
    PredictionFiles,
    PredictionWriter,
    StoredPredictions,
    pack_map,
    pack_masks,
    pack_output,
    pack_target,
    unpack_map,
    unpack_masks,
    unpack_output,
    unpack_target,
)
from panoptic_occ.structures.base_output import BaseOutput
from panoptic_occ.structures.instances import InstanceSet
from panoptic_occ.structures.masks import MaskCrops, PairStats
from panoptic_occ.structures.panoptic_map import PanopticMap
from panoptic_occ.structures.sample import Sample
from panoptic_occ.structures.semantic_map import VOID_LABEL, SemanticMap
from panoptic_occ.testing import toy_detections, toy_sample, toy_semantic

ADVICE = "store them"


def output_of(sample: Sample, count: int | None = None) -> BaseOutput:
    instances, generator = toy_detections(sample.annotations), torch.Generator().manual_seed(0)
    instances = instances[torch.arange(len(instances) if count is None else count)]
    stats = PairStats.of(instances.masks)
    semantic = replace(toy_semantic(sample), confidence={"0": torch.rand(4, generator=generator), "16": torch.ones(4)})
    return BaseOutput(instances, stats, semantic, {"mine": {"logits": stats.inter / 3.0, "values": stats.area / 7.0}})


@pytest.mark.parametrize("count", [0, 1, 6])
def test_output_is_the_same_bit_by_bit(count: int) -> None:
    before = output_of(toy_sample(6, 3), count)
    after = unpack_output(pack_output(before), before.head_outputs)
    assert_same(replace(before.instances, soft=None, roi_features=None), after.instances)
    assert_same(before.stats, after.stats)
    assert_same(before.semantic.labels, after.semantic.labels)
    assert after.semantic.logits is None and after.semantic.first_label == before.semantic.first_label
    assert after.semantic.confidence.keys() == {"0", "16"}
    assert_same(before.semantic.confidence["0"], after.semantic.confidence["0"])


@pytest.mark.parametrize("count", [0, 1, 6])
def test_target_is_the_same_bit_by_bit(count: int) -> None:
    before = toy_sample(count, 2).annotations
    big = PanopticMap(
        before.panoptic.ids * 70_001, tuple(replace(s, id=s.id * 70_001) for s in before.panoptic.segments)
    )
    crowd = replace(big, segments=tuple(replace(s, iscrowd=True, instance=3) for s in big.segments))
    for panoptic in (before.panoptic, big, crowd):
        target = replace(before, panoptic=panoptic)
        assert_same(target, unpack_target(pack_target(target)))


def test_masks_of_every_size_and_of_none() -> None:
    generator = torch.Generator().manual_seed(0)
    sizes = [(1, 1), (0, 0), (3, 5), (1, 8), (7, 2)]
    crops = [torch.rand(size, generator=generator) > 0.5 for size in sizes]
    for some in (crops, crops[:1], []):
        masks = MaskCrops.from_crops(some, [(2, 3)] * len(some), (20, 30))
        assert_same(masks, unpack_masks(pack_masks(masks)))


@pytest.mark.parametrize("largest", [3, 254, 255, 70_000])
def test_labels_of_any_range(largest: int) -> None:
    before = output_of(toy_sample(2, 1))
    labels = torch.full((20, 30), VOID_LABEL)
    labels[3:5, 4:9], labels[10] = largest, 0
    before = replace(before, semantic=SemanticMap(labels, first_label=7))
    after = unpack_output(pack_output(before), {}).semantic
    assert_same(labels, after.labels)
    assert after.first_label == 7


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64])
def test_maps_of_any_kind(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    fine = torch.randperm(20 * 30, generator=generator).view(20, 30).to(dtype)  # more values than a byte holds
    coarse = fine[:4, :5].repeat_interleave(5, dim=0).repeat_interleave(6, dim=1)
    one_too_many = torch.arange(257).to(dtype)[None]  # for a byte
    for values in (
        fine,
        one_too_many,
        coarse,
        coarse[:, :1],
        coarse[:1, :1],
        torch.zeros((0, 5), dtype=dtype),
        coarse.T,
    ):
        tensors = pack_map("map", values) | {"mask_size": torch.tensor(values.shape)}
        assert_same(values.contiguous(), unpack_map(tensors, "map"))
    assert len(pack_map("map", coarse)["map_runs"]) <= 20 * 5


def write(files: PredictionFiles, samples: list[Sample], methods: dict[str, str], shift: float = 0) -> None:
    stages = {method: (stage, {"weights": "w"}) for method, stage in methods.items()}
    with PredictionWriter(files, {"data": "a"}, stages) as writer:
        for sample in samples:
            output = output_of(sample)
            instances = replace(output.instances, scores=output.instances.scores - shift)
            writer(sample, replace(output, instances=instances), {})


def test_split_in_files_in_any_order(tmp_path: Path) -> None:
    files, samples = PredictionFiles(tmp_path), [toy_sample(n, n) for n in (3, 0, 5)]
    write(files, samples, {"mine": "mine_123"})
    stored = StoredPredictions(files, {"mine": "mine_123"}, ADVICE)
    for sample in (samples[2], samples[0], samples[1]):
        expected, actual = output_of(sample), stored.output(sample.image_id)
        assert_same(expected.stats, actual.stats)
        assert_same(expected.head_outputs["mine"]["values"], actual.head_outputs["mine"]["values"])
        again = stored.sample(sample.image_id)
        assert_same(sample.annotations, again.annotations)
        assert (again.file_name, again.original_size) == (sample.file_name, sample.original_size)


def test_head_outputs_can_be_added_later_but_not_to_other_detections(tmp_path: Path) -> None:
    files, samples = PredictionFiles(tmp_path), [toy_sample(4, 1)]
    write(files, samples, {"mine": "mine_1"})
    write(files, samples, {"mine": "other_2"})  # the same detections again, for another module
    assert StoredPredictions(files, {"mine": "mine_1"}, ADVICE).output(1).head_outputs.keys() == {"mine"}
    write(files, samples, {}, shift=0.01)
    assert StoredPredictions(files, {}, ADVICE).output(1).head_outputs == {}
    with pytest.raises(CheckpointError, match=r"mine_1\.zip: holds head outputs for other detections.*; store them"):
        StoredPredictions(files, {"mine": "mine_1"}, ADVICE)
    with pytest.raises(CheckpointError, match=r"mine_9\.zip: the file does not exist; store them"):
        StoredPredictions(files, {"mine": "mine_9"}, ADVICE)


def blob(generator: np.random.Generator, size: tuple[int, int], scale: float) -> np.ndarray:
    """A ragged region, about half of the pixels."""
    coarse = generator.normal(size=(max(int(size[0] / scale), 2), max(int(size[1] / scale), 2)))
    smooth = ndimage.zoom(coarse, (size[0] / coarse.shape[0], size[1] / coarse.shape[1]), order=1)
    ragged: np.ndarray = smooth + 0.02 * generator.normal(size=size) > 0
    return ragged


def coco_like(seed: int, count: int) -> BaseOutput:
    """480x640, ``count`` detections whose boxes cover the image about five times, stuff in ragged regions."""
    generator = np.random.default_rng(seed)
    crops, corners = [], []
    for _ in range(count):
        h, w = (int(edge * generator.uniform(0.1, 0.6)) for edge in (480, 640))
        crops.append(torch.from_numpy(blob(generator, (h, w), 30)))
        corners.append((int(generator.integers(480 - h)), int(generator.integers(640 - w))))
    masks = MaskCrops.from_crops(crops, corners, (480, 640))
    labels = sum(2**k * blob(generator, (480, 640), 60).astype(np.int64) for k in range(4))
    boxes = masks.boxes + torch.rand((count, 4))
    instances = InstanceSet(masks, boxes, torch.rand(count).sort(descending=True).values, torch.randint(80, (count,)))
    semantic = SemanticMap(torch.as_tensor(labels) + 80)
    return BaseOutput(instances, PairStats.of(masks), semantic, {"mine": {"logits": torch.randn(count, count)}})


def test_a_coco_image_takes_less_than_150_kb(tmp_path: Path) -> None:
    files, count = PredictionFiles(tmp_path), 20
    target = toy_sample(3, 0, size=(480, 640)).annotations
    with PredictionWriter(files, {"data": "a"}, {"mine": ("mine_1", {})}) as writer:
        for seed in range(4):
            writer(Sample(torch.zeros(3, 1, 1), seed, "", (480, 640), target), coco_like(seed, count), {})
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) < 4 * 150_000
