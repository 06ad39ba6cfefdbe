"""Annotated boxes and classes in place of the detector's (BANet Table 4)."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from panoptic_occ.common.errors import ConfigError
from panoptic_occ.structures.sample import Batch
from panoptic_occ.testing import toy_categories, toy_sample
from panoptic_occ.thing.base import Rois, ThingBranch
from panoptic_occ.thing.ground_truth import GroundTruthThings
from panoptic_occ.thing.mask_rcnn import MaskRCNN
from panoptic_occ.thing.oracle import RoiOracle, annotated_boxes


def batch_of(*samples, scale=2):
    """The samples as the network sees them: ``scale`` times as large, and padded."""
    height, width = (scale * edge for edge in samples[0].original_size)
    images = torch.zeros(len(samples), 3, height + 24, width + 4)
    return Batch(images, ((height, width),) * len(samples), samples)


def no_classify(*_):
    raise AssertionError("only annotated boxes are classified")


def test_boxes_are_in_the_frame_of_the_network():
    sample = toy_sample(3)
    (boxes,) = annotated_boxes(batch_of(sample))
    assert torch.equal(boxes, 2 * sample.annotations.boxes)
    stretched = Batch(torch.zeros(1, 3, 96, 96), ((40, 30),), (sample,))  # 20 x 30 px became 40 x 30
    assert torch.equal(annotated_boxes(stretched)[0], sample.annotations.boxes * torch.tensor([1, 2, 1, 2]))


def test_class_oracle_changes_labels_of_matched_boxes_only():
    sample = toy_sample(2, seed=3)
    target = replace(sample.annotations, boxes=torch.tensor([[0.0, 0, 10, 10], [0, 10, 20, 20]]))
    target = replace(target, labels=torch.tensor([2, 1]))
    sample = replace(sample, target=target)
    # IoU with twice the first annotated box: 1, exactly .5, just below
    rois = Rois(
        torch.tensor([[0.0, 0, 20, 20], [0, 0, 20, 10], [0, 0, 20, 9.9]]),
        torch.tensor([0, 0, 0]),
        torch.tensor([0.9, 0.8, 0.7]),
    )
    (changed,) = RoiOracle(classes=True)([rois], {}, batch_of(sample), no_classify)
    assert changed.labels.tolist() == [2, 2, 0]
    assert torch.equal(changed.boxes, rois.boxes) and torch.equal(changed.scores, rois.scores)


def test_box_oracle_takes_what_the_classifier_says_and_drops_nothing():
    samples = toy_sample(3, seed=1), toy_sample(0, seed=2)
    batch = batch_of(*samples)
    classified = []

    def classify(features, batch, boxes):
        classified.extend(boxes)
        return [Rois(b, torch.zeros(len(b), dtype=torch.int64), 0.01 * torch.arange(len(b)).float()) for b in boxes]

    nothing = [Rois(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0))] * 2
    rois, empty = RoiOracle(boxes=True)(nothing, {}, batch, classify)
    assert torch.equal(rois.boxes, 2 * samples[0].annotations.boxes.flip(0))  # ranked by score
    assert rois.labels.tolist() == [0, 0, 0] and len(empty) == 0
    assert [len(boxes) for boxes in classified] == [3, 0]
    known, _ = RoiOracle(boxes=True, classes=True)(nothing, {}, batch, classify)
    assert torch.equal(known.labels, samples[0].annotations.labels.flip(0))
    assert torch.equal(known.scores, rois.scores)


def test_two_annotations_in_one_box_keep_their_classes():
    sample = toy_sample(2, seed=0)
    target = replace(sample.annotations, boxes=torch.tensor([[0.0, 0, 9, 9]]).repeat(2, 1), labels=torch.tensor([2, 1]))

    def classify(features, batch, boxes):
        return [Rois(b, torch.zeros(len(b), dtype=torch.int64), torch.ones(len(b))) for b in boxes]

    (rois,) = RoiOracle(boxes=True, classes=True)([], {}, batch_of(replace(sample, target=target)), classify)
    assert rois.labels.tolist() == [2, 1]


def small_mask_rcnn():
    torch.manual_seed(0)
    return MaskRCNN(
        in_channels=32, categories=toy_categories(), anchor_scale=2, hidden=16, mask_convs=1, score_thr=0.0
    ).eval()


def pyramid(batch):
    generator = torch.Generator().manual_seed(1)
    height, width = batch.images.shape[-2:]
    sizes = {"0": 4, "1": 8, "2": 16, "3": 32, "pool": 64}
    return {
        name: torch.randn(len(batch.samples), 32, -(-height // s), -(-width // s), generator=generator)
        for name, s in sizes.items()
    }


def test_detections_lie_in_the_annotated_boxes():
    thing, sample = small_mask_rcnn(), toy_sample(4, seed=5)
    batch = batch_of(sample)
    features = pyramid(batch)
    plain = thing.detect(features, batch, 0.0, frozenset())[0]
    thing.use_oracle(RoiOracle(boxes=True, classes=True))
    instances = thing.detect(features, batch, 0.9, frozenset({"roi_features"}))[0]
    order = [int((sample.annotations.boxes - box).abs().sum(dim=1).argmin()) for box in instances.boxes]
    assert sorted(order) == [0, 1, 2, 3]
    torch.testing.assert_close(instances.boxes, sample.annotations.boxes[order])
    assert torch.equal(instances.labels, sample.annotations.labels[order])
    assert torch.equal(instances.scores, instances.scores.sort(descending=True).values)
    assert instances.roi_features.shape[0] == 4  # type: ignore[union-attr]
    # the mask is that of the annotated class
    pooled = thing.pool(features, [Rois(2 * instances.boxes, instances.labels, instances.scores)])
    logits = thing.mask_logits(thing.mask_features(pooled))
    torch.testing.assert_close(instances.soft, logits[torch.arange(4), instances.labels + 1].sigmoid())
    thing.use_oracle(None)
    once_more = thing.detect(features, batch, 0.0, frozenset())[0]
    assert torch.equal(once_more.boxes, plain.boxes) and torch.equal(once_more.labels, plain.labels)


def test_an_image_without_annotations_has_no_detections():
    thing, sample = small_mask_rcnn(), toy_sample(0)
    batch = batch_of(sample)
    thing.use_oracle(RoiOracle(boxes=True, classes=True))
    assert len(thing.detect(pyramid(batch), batch, 0.0, frozenset())[0]) == 0


def test_branches_that_find_no_boxes():
    GroundTruthThings(in_channels=4, categories=toy_categories()).use_oracle(RoiOracle(boxes=True))
    with pytest.raises(ConfigError, match=r"oracle=\[box,class\]: ThingBranch finds no boxes"):
        ThingBranch().use_oracle(RoiOracle(boxes=True))
    ThingBranch().use_oracle(None)
