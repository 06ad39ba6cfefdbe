"""The thing branch: losses, detections, positives, against closed forms and hand-made cases."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torchvision.models.detection.image_list import ImageList

from helpers.small_images import rectangle
from panoptic_occ.structures.masks import MaskCrops
from panoptic_occ.structures.sample import Batch, Sample
from panoptic_occ.structures.target import Target
from panoptic_occ.testing import toy_categories, toy_target
from panoptic_occ.thing.base import Rois
from panoptic_occ.thing.ground_truth import GroundTruthThings
from panoptic_occ.thing.mask_head import mask_loss
from panoptic_occ.thing.mask_rcnn import MaskRCNN

CATEGORIES = toy_categories(2, 1)


def make_target(boxes: list[list[int]], labels: list[int], size: int = 64) -> Target:
    masks = [rectangle((y0, y1), (x0, x1), (size, size)) for x0, y0, x1, y1 in boxes]
    dense = torch.stack(masks) if masks else torch.zeros(0, size, size, dtype=torch.bool)
    return toy_target(dense, torch.tensor(labels, dtype=torch.int64))


def make_batch(targets: list[Target], size: int = 64) -> Batch:
    image = torch.zeros(3, size, size, dtype=torch.uint8)
    samples = tuple(Sample(image, i, f"{i}.jpg", (size, size), t) for i, t in enumerate(targets))
    return Batch(torch.zeros(len(samples), 3, size, size), ((size, size),) * len(samples), samples)


ONE = make_target([[8, 8, 40, 40]], [0])
TWO = make_target([[8, 8, 40, 40], [24, 24, 60, 60]], [0, 1])


def make_features(images: int, channels: int = 8, size: int = 64) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    levels = {str(k): torch.randn(images, channels, size // 2 ** (k + 2), size // 2 ** (k + 2)) for k in range(4)}
    return levels | {"pool": torch.randn(images, channels, 1, 1)}


def make_branch(**settings: object) -> MaskRCNN:
    torch.manual_seed(0)
    options = {"anchor_scale": 4, "rois_per_image": 32, "mask_convs": 1, **settings}
    return MaskRCNN(in_channels=8, categories=CATEGORIES, **options)  # type: ignore[arg-type]


def test_losses_are_those_of_chance_at_the_start() -> None:
    branch = make_branch().train()
    batch = make_batch([TWO] * 2)
    losses = branch.losses(make_features(2), batch)
    assert set(losses) == {"rpn_cls", "rpn_box", "cls", "box", "mask"}
    assert losses["rpn_cls"].item() == pytest.approx(math.log(2), abs=0.05)
    assert losses["cls"].item() == pytest.approx(math.log(3), abs=0.1)  # two classes and the background
    sum(losses.values()).backward()  # type: ignore[union-attr]
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in branch.parameters())


def test_image_without_instances_trains() -> None:
    branch = make_branch().train()
    losses = branch.losses(make_features(1), make_batch([make_target([], [])]))
    total = torch.stack(list(losses.values())).sum()
    total.backward()
    assert torch.isfinite(total)
    assert losses["mask"].item() == 0


def test_mask_loss_of_perfect_and_zero_logits() -> None:
    target = make_target([[8, 8, 40, 40]], [1])
    rois = [Rois(target.boxes, target.labels, torch.ones(1), torch.tensor([0]))]
    logits = torch.full((1, 3, 28, 28), -50.0)
    logits[:, 2] = 50.0  # channel of the annotation's class; its mask fills its box
    assert mask_loss(logits, rois, [target]).item() == pytest.approx(0, abs=1e-4)
    assert mask_loss(torch.zeros(1, 3, 28, 28), rois, [target]).item() == pytest.approx(math.log(2))
    assert mask_loss(torch.zeros(0, 3, 28, 28), [rois[0][torch.zeros(0).long()]], [target]).item() == 0


def test_mask_target_is_aligned_with_the_pixels() -> None:
    # a box of 28x28 px makes every cell of the target one pixel: the target must be the mask itself
    target = make_target([[4, 6, 32, 34]], [0])
    dense = target.masks.dense()
    dense[0, 6:20, 4:18] = False
    target = replace(target, masks=MaskCrops.from_dense(dense))
    logits = torch.full((1, 3, 28, 28), 0.0)
    logits[0, 1] = (dense[0, 6:34, 4:32].float() * 2 - 1) * 40
    rois = Rois(torch.tensor([[4.0, 6.0, 32.0, 34.0]]), target.labels, torch.ones(1), torch.tensor([0]))
    assert mask_loss(logits, [rois], [target]).item() < 1e-6


def test_mask_targets_do_not_know_the_precision_of_the_logits() -> None:
    """A small object far from the origin, where bfloat16 counts pixels in steps of eight."""
    target = make_target([[1203, 703, 1223, 723]], [0], size=1344)
    rois = [Rois(target.boxes, target.labels, torch.ones(1), torch.tensor([0]))]
    logits = torch.full((1, 3, 28, 28), 4.0)
    assert mask_loss(logits.bfloat16(), rois, [target]) == mask_loss(logits, rois, [target])


def test_boxes_are_exact_in_half_precision() -> None:
    branch = make_branch().eval()
    size = (256, 1344)
    torch.manual_seed(1)
    shapes = {str(k): (size[0] // 2 ** (k + 2), size[1] // 2 ** (k + 2)) for k in range(4)} | {"pool": (4, 21)}
    features = {name: torch.randn(1, 8, *shape).bfloat16() for name, shape in shapes.items()}
    images = ImageList(torch.zeros(1, 3, *size), [size])
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        anchors = branch.rpn.anchor_generator(images, list(features.values()))[0]
        (proposals,), _ = branch.rpn(images, features)
    assert proposals.dtype == torch.float32
    assert len(anchors.unique(dim=0)) == len(anchors)  # rounded to bfloat16, neighbours would be the same
    far = proposals[proposals[:, 0] > 1024, 0]
    assert len(far) > 10 and (far % 8 != 0).any()


def test_detections_are_ranked_cut_and_placed_in_the_original_frame() -> None:
    branch = make_branch(score_thr=0.0).eval()
    batch = make_batch([ONE])
    doubled = replace(batch, samples=(replace(batch.samples[0], original_size=(128, 128)),))
    features = make_features(1)
    (same,), (twice,) = (branch.detect(features, b, 0.0, frozenset({"roi_features"})) for b in (batch, doubled))
    assert len(same) > 3
    assert torch.all(same.scores[:-1] >= same.scores[1:])
    assert torch.allclose(twice.boxes, 2 * same.boxes)
    assert twice.masks.size == (128, 128)
    assert same.roi_features is not None and same.roi_features.shape == (len(same), 8, 14, 14)
    thr = float(same.scores[2])
    (cut,) = branch.detect(features, batch, thr, frozenset())
    assert torch.equal(cut.scores, same.scores[same.scores >= thr])
    assert cut.roi_features is None
    assert set(same.labels.tolist()) <= {0, 1}


def test_suppression_among_all_classes_is_the_greedy_rule() -> None:
    batch, features = make_batch([ONE]), make_features(1)
    everything = {"score_thr": 0.0, "nms_thr": 1.0, "max_detections": 10_000}
    (every,) = make_branch(**everything).eval().find(features, batch, 0.0)
    kept: list[int] = []  # best score first: keep what overlaps nothing kept by more than the threshold
    for i in range(len(every)):
        x0, y0 = torch.maximum(every.boxes[i, :2], every.boxes[kept, :2]).T
        x1, y1 = torch.minimum(every.boxes[i, 2:], every.boxes[kept, 2:]).T
        common = (x1 - x0).clamp(min=0) * (y1 - y0).clamp(min=0)
        area = (every.boxes[:, 2:] - every.boxes[:, :2]).prod(dim=1)
        if (common <= 0.5 * (area[i] + area[kept] - common)).all():
            kept.append(i)
    settings = everything | {"nms_thr": 0.5, "class_agnostic_nms": True}
    (rois,) = make_branch(**settings).eval().find(features, batch, 0.0)
    assert torch.equal(rois.boxes, every.boxes[kept]) and torch.equal(rois.labels, every.labels[kept])
    (within,) = make_branch(**everything | {"nms_thr": 0.5}).eval().find(features, batch, 0.0)
    assert 3 < len(rois) < len(within) < len(every)
    (few,) = make_branch(**settings | {"max_detections": 3}).eval().find(features, batch, 0.0)
    assert torch.equal(few.boxes, rois.boxes[:3])


def test_the_mask_head_sees_only_what_enters_the_map() -> None:
    branch = make_branch(score_thr=0.0).eval()
    batch, features = make_batch([ONE] * 2), make_features(2)
    every = branch.find(features, batch, 0.0)
    thr = float(torch.cat([r.scores for r in every]).sort(descending=True).values[4])
    seen: list[int] = []
    for layer in (branch.roi_heads.mask_roi_pool, branch.roi_heads.mask_head, branch.roi_heads.mask_predictor):
        layer.register_forward_hook(lambda module, inputs, out: seen.append(len(out)))
    instances = branch.detect(features, batch, thr, frozenset())
    assert sum(map(len, every)) > 10 and [sum(map(len, instances))] * 3 == [5] * 3 == seen


def test_positives_match_annotations_and_contain_them() -> None:
    branch = make_branch().eval()
    ((instances, matches),) = branch.positives(make_features(1), make_batch([TWO]), frozenset())
    assert set(matches.tolist()) == {0, 1}  # the annotated boxes themselves are among the proposals
    assert torch.equal(instances.labels, TWO.labels[matches])


def test_only_trainable_proposals_get_masks_and_sampling_stays_the_same() -> None:
    branch = make_branch().eval()
    batch = make_batch([TWO, make_target([], [])])
    trainable = [torch.tensor([False, True]), torch.zeros(0, dtype=torch.bool)]
    torch.manual_seed(3)
    (every, matches), nothing = branch.positives(make_features(2), batch, frozenset())
    torch.manual_seed(3)
    (some, chosen), still_nothing = branch.positives(make_features(2), batch, frozenset(), trainable)
    assert 0 < len(some) < len(every) and (chosen == 1).all()
    assert torch.equal(some.boxes, every.boxes[matches == 1]) and torch.equal(some.labels, every.labels[matches == 1])
    torch.testing.assert_close(some.soft, every.soft[matches == 1])
    assert len(nothing[0]) == len(still_nothing[0]) == 0


def test_masks_per_image_caps_the_mask_loss_only() -> None:
    branch = make_branch(masks_per_image=1)
    chosen = branch._mask_samples(torch.tensor([0, 2, 1, 0, 2]))
    assert len(chosen) == 1 and chosen.item() in (1, 2, 4)


def test_ground_truth_things_are_the_annotations_shuffled() -> None:
    target = make_target([[i, i, i + 10, i + 10] for i in range(0, 50, 5)], [0] * 10)
    branch = GroundTruthThings(in_channels=0, categories=CATEGORIES)
    (things,) = branch.detect({}, make_batch([target]), 0.5, frozenset())
    assert sorted(things.boxes[:, 0].tolist()) == target.boxes[:, 0].tolist()
    assert things.boxes[:, 0].tolist() != target.boxes[:, 0].tolist()
    assert things.scores.tolist() == [1.0] * 10
