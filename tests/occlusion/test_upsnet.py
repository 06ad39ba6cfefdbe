"""UPSNet's per-pixel choice, against the formula written out pixel by pixel."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from helpers.appearance import owners
from helpers.small_images import ask, detections, fused, strip
from helpers.toy_orders import COMMON
from panoptic_occ.common.errors import ConfigError
from panoptic_occ.fusion.policy import FusionPolicy
from panoptic_occ.occlusion.upsnet import STUFF, VOID, PixelArgmax
from panoptic_occ.structures.instances import InstanceSet
from panoptic_occ.structures.masks import MaskCrops, PairStats
from panoptic_occ.structures.relation import Relation
from panoptic_occ.structures.semantic_map import VOID_LABEL, SemanticMap
from panoptic_occ.testing import toy_detections, toy_sample, toy_semantic

POLICY = FusionPolicy(conf_thr=0, min_visible=0.0, stuff_area=0)


def boxes_of(*boxes: tuple[int, int, int, int], logits: list[float], labels: list[int]) -> InstanceSet:
    """Instances that fill their boxes with one mask logit."""
    masks = torch.zeros(len(boxes), 4, 8, dtype=torch.bool)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes, strict=True):
        mask[y0:y1, x0:x1] = True
    soft = torch.tensor(logits).sigmoid()[:, None, None].expand(-1, 28, 28)
    return replace(detections(masks, labels=labels), soft=soft)


def relation_of(instances: InstanceSet, logits: torch.Tensor, **options: Any) -> Relation:
    labels = torch.full(logits.shape[1:], VOID_LABEL)
    return ask(PixelArgmax(**options, **COMMON), instances, semantic=SemanticMap(labels, logits, 0))


def with_stuff(instances: InstanceSet, relation: Relation) -> dict[int, int]:
    """Pixels by label where no stuff is too small; the relation brings the stuff."""
    panoptic = fused(instances, relation, POLICY, torch.full(instances.masks.size, VOID_LABEL))
    return {segment.label: segment.area for segment in panoptic.segments}


def test_v1_the_higher_sum_of_logits_wins() -> None:
    instances = boxes_of((0, 0, 4, 4), (2, 0, 6, 4), logits=[1.5, 2.0], labels=[0, 0])
    owner = PixelArgmax(**COMMON).owner(instances, torch.zeros(5, 4, 8))
    assert owner[0].tolist() == [0, 0, 1, 1, 1, 1, STUFF, STUFF]


def test_semantic_logits_decide_between_classes_and_against_stuff() -> None:
    instances = boxes_of((0, 0, 4, 4), (2, 0, 6, 4), logits=[1.5, 2.0], labels=[0, 1])
    semantic = torch.zeros(5, 4, 8)
    semantic[0] = 1.0  # class 0: 1.0 + 1.5 beats 0 + 2.0
    semantic[3, :, 0] = 9.0  # stuff wins the first column
    assert PixelArgmax(**COMMON).owner(instances, semantic)[0].tolist() == [STUFF, 0, 0, 0, 1, 1, STUFF, STUFF]


def test_v2_void_where_a_thing_class_is_seen_but_not_detected() -> None:
    instances = boxes_of((0, 0, 4, 4), logits=[1.0], labels=[0])
    semantic = torch.zeros(5, 4, 8)
    semantic[0, :, :4] = 2.0  # the best class has a box: max_thing - max_seg_inst is 0, below the instance's 3
    semantic[1, :, 6:] = 2.0  # seen, no box: 2 - 0 beats stuff at 0
    assert PixelArgmax(void=True, **COMMON).owner(instances, semantic)[0].tolist() == [0] * 4 + [STUFF] * 2 + [VOID] * 2


def written(instances: InstanceSet, semantic: torch.Tensor, reach: str) -> torch.Tensor:
    """The owner of every pixel by the argmax of dense channels: the best stuff, then the instances by rank."""
    height, width = semantic.shape[1:]
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    sums = []
    for mask, logit, box, label in zip(
        instances.masks.dense(), instances.soft.logit(), instances.boxes, instances.labels, strict=True
    ):
        grid = torch.stack([(x - box[0]) / (box[2] - box[0]), (y - box[1]) / (box[3] - box[1])], dim=-1) * 2 - 1
        placed = F.grid_sample(logit[None, None], grid[None], align_corners=False)[0, 0]
        in_box = (x >= box[0]) & (x <= box[2]) & (y >= box[1]) & (y <= box[3])
        total = torch.where(in_box, semantic[label] + placed, 0 if reach == "image" else -torch.inf)
        sums.append(total if reach != "mask" else torch.where(mask, total, -torch.inf))
    channels = torch.stack([semantic[3:].amax(dim=0), *sums])
    return channels.argmax(dim=0) - 1  # the first of equal ones; -1 is STUFF


@pytest.mark.parametrize("reach", ["image", "box", "mask"])
@pytest.mark.parametrize("seed", range(4))
def test_every_pixel_is_the_argmax_of_the_written_formula(seed: int, reach: Any) -> None:
    sample = toy_sample(5, seed)
    instances, semantic = toy_detections(sample.annotations, seed), toy_semantic(sample)
    assert semantic.logits is not None
    logits = semantic.logits.clone()
    logits[3:, :5] = -0.5  # no stuff at all there: far instances have 0
    everybody = PixelArgmax(nms="none", same_class_thr=None, reach=reach, relabel=None, **COMMON)
    expected = written(instances, logits, reach)
    assert torch.equal(everybody.owner(instances, logits), expected)
    assert (reach == "image") == bool((written(instances, logits, "image") == expected).all())
    relation = ask(everybody, instances, semantic=SemanticMap(semantic.labels, logits, 0))
    assert torch.equal(owners(instances, relation, POLICY), expected)
    masks = instances.masks.dense()
    for i, j in relation.valid.nonzero().tolist():
        common = masks[i] & masks[j]
        ahead = int((expected[common] == i).sum()) - int((expected[common] == j).sum())
        assert float(relation.margin[i, j]) == pytest.approx(ahead / int(common.sum()))


def test_v3_far_instances_win_where_no_stuff_is_seen_unless_they_are_kept_in_their_boxes() -> None:
    instances = boxes_of((0, 0, 4, 4), (2, 0, 6, 4), logits=[1.5, 2.0], labels=[0, 0])
    semantic = torch.zeros(5, 4, 8)
    semantic[3:] = -1.0
    far = PixelArgmax(reach="image", **COMMON).owner(instances, semantic)
    assert far[0].tolist() == [0, 0, 1, 1, 1, 1, 0, 0]
    for reach in ("box", "mask"):
        kept = PixelArgmax(reach=reach, **COMMON).owner(instances, semantic)
        assert kept[0].tolist() == [0, 0, 1, 1, 1, 1, STUFF, STUFF]


@pytest.mark.parametrize(("relabel", "becomes"), [(0.5, True), (0.625, True), (0.63, False), (None, False)])
def test_an_instance_that_is_mostly_stuff_becomes_stuff(relabel: float | None, becomes: bool) -> None:
    """Of the 8 columns of the instance X shows stuff class 4 in five and its own class in three."""
    instances = boxes_of((0, 0, 8, 4), logits=[2.0], labels=[0])
    logits = torch.zeros(5, 4, 8)
    logits[4, :, :5], logits[0, :, 5:] = 1.0, 1.0
    assert with_stuff(instances, relation_of(instances, logits, relabel=relabel)) == {4 if becomes else 0: 32}


def test_an_instance_that_is_mostly_another_thing_stays() -> None:
    instances = boxes_of((0, 0, 8, 4), logits=[2.0], labels=[0])
    logits = torch.zeros(5, 4, 8)
    logits[1, :, :5], logits[4, :, 5:] = 1.0, 1.0
    relation = relation_of(instances, logits, relabel=0.1)
    assert relation.claims is not None and relation.claims.area.tolist() == [32]


@pytest.mark.parametrize("reach", ["image", "box", "mask"])
def test_an_empty_mask_wins_nothing(reach: Any) -> None:
    instances = boxes_of((0, 0, 4, 4), (4, 0, 8, 4), logits=[2.0, -2.0], labels=[0, 1])
    dense = instances.masks.dense()
    dense[1] = False
    instances = replace(instances, masks=MaskCrops.from_dense(dense))
    logits = torch.zeros(5, 4, 8)
    logits[3:] = -9.0
    relation = relation_of(instances, logits, reach=reach, nms="none")
    assert relation.claims is not None and relation.claims.area.tolist() == [32 if reach == "image" else 16, 0]


def test_claims_beyond_a_mask_are_counted_as_they_are_painted() -> None:
    """An instance may own as many pixels as its mask has, and others than these: what others hold of it is counted."""
    instances = boxes_of((0, 0, 2, 4), (4, 0, 6, 4), logits=[1.0, 1.0], labels=[0, 0])
    nothing = torch.zeros(2, 2)
    relation = Relation(nothing, nothing.bool(), claims=MaskCrops.from_dense(instances.masks.dense()[[1, 0]]))
    panoptic = fused(instances, relation, FusionPolicy(conf_thr=0, same_class_thr=1.0))
    assert [(record.status, record.final) for record in panoptic.records] == [("kept", 8), ("same_class", 0)]


@pytest.mark.parametrize("nms", ["box", "none"])
def test_a_removed_detection_keeps_no_pixels(nms: str) -> None:
    """The second of two equal masks has higher logits everywhere: all its pixels are the first one's."""
    instances = boxes_of((0, 0, 8, 4), (0, 0, 8, 4), logits=[1.0, 2.0], labels=[0, 0])
    logits = torch.zeros(5, 4, 8)
    logits[3:] = -9.0
    panoptic = fused(instances, relation_of(instances, logits, nms=nms), POLICY)
    assert [(record.status, record.final) for record in panoptic.records] == [("kept", 32), ("duplicate", 0)]


@pytest.mark.parametrize("void", [False, True])
def test_what_no_instance_wins_is_the_best_stuff_class_or_void(void: bool) -> None:
    """Also where the semantic map says that a thing is there: thing logit 3, stuff logit 1."""
    instances = boxes_of(logits=[], labels=[])
    logits = torch.zeros(5, 4, 8)
    logits[0], logits[4, :, :4], logits[3, :, 4:] = 3.0, 1.0, 1.0
    assert with_stuff(instances, relation_of(instances, logits, void=void)) == ({} if void else {4: 16, 3: 16})


def test_masks_are_removed_when_their_own_class_covers_more_than_the_threshold() -> None:
    """Third of the strip: 3 of 10 pixels covered by class 0, which is not more than .3; of the fourth 4 of 10."""
    masks = strip(24, range(10), range(10), range(7, 17), range(13, 23))
    instances = detections(masks, labels=[0, 1, 0, 0])
    stats = PairStats.of(instances.masks)
    assert PixelArgmax(nms="none", **COMMON).suppressors(instances, stats).tolist() == [-1, -1, -1, 2]
    repeated = PixelArgmax(**COMMON).suppressors(instances, stats).tolist()  # the second repeats the first box
    assert repeated == [-1, 0, -1, 2]


def test_collapsed_things_are_refused() -> None:
    instances = boxes_of((0, 0, 4, 4), logits=[1.0], labels=[0])
    semantic = SemanticMap(torch.zeros(4, 8).long(), torch.zeros(3, 4, 8), first_label=2)
    with pytest.raises(ConfigError, match="stuff=pfpn_dense"):
        ask(PixelArgmax(**COMMON), instances, semantic=semantic)
