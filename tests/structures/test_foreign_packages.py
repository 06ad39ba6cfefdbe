"""Readers and writers against the packages themselves, where they are installed: none of them is needed."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from panoptic_occ.structures.categories import Categories
from panoptic_occ.structures.instances import InstanceSet
from panoptic_occ.structures.panoptic_map import PanopticMap, Segment

NAMES = {0: "cup", 1: "plate", 2: "spoon", 3: "table", 4: "wall"}
TABLEWARE = Categories.from_json({"id": 10 + k, "name": NAMES[k], "isthing": int(k < 3)} for k in NAMES)


def test_mask_rcnn_of_torchvision() -> None:
    """Random weights; a pixel belongs to a mask from 0.5 on."""
    from torchvision.models.detection import maskrcnn_resnet50_fpn

    torch.manual_seed(0)
    sizes = {"min_size": 64, "max_size": 96, "box_score_thresh": 0.0, "box_detections_per_img": 8}
    model = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=4, **sizes).eval()
    with torch.no_grad():
        (output,) = model([torch.rand(3, 48, 72)])
    instances = InstanceSet.from_torchvision(output, size=(48, 72))
    assert len(instances) == len(output["scores"]) > 0
    order = torch.argsort(output["scores"], descending=True, stable=True)
    assert torch.equal(instances.masks.dense(), output["masks"][order, 0] >= 0.5)
    assert torch.equal(instances.boxes, output["boxes"][order]) and torch.equal(
        instances.labels, output["labels"][order]
    )


def test_supervision() -> None:
    supervision = pytest.importorskip("supervision")
    segments = (Segment(1, 0, True, 2, score=0.5), Segment(2, 1, True, 1, score=0.75), Segment(3, 3, False, 2))
    scene = PanopticMap(torch.tensor([[1, 1, 2], [3, 3, 0]]), segments)
    every = scene.to_supervision(TABLEWARE)
    assert isinstance(every, supervision.Detections) and every.area.tolist() == [2, 1, 2]
    things = InstanceSet.from_supervision(every[every.data["isthing"]], categories=TABLEWARE)
    assert things.scores.tolist() == [0.75, 0.5] and things.labels.tolist() == [1, 0]
    assert torch.equal(things.masks.dense(), torch.stack([scene.ids == 2, scene.ids == 1]))
    assert len(InstanceSet.from_supervision(supervision.Detections.empty(), size=(2, 3))) == 0


@pytest.mark.parametrize(("size", "padded"), [((427, 640), (480, 640)), ((333, 517), (416, 640)), ((6, 8), (6, 8))])
def test_ultralytics(size: tuple[int, int], padded: tuple[int, int]) -> None:
    """Masks of the padded input as supervision reads them, which resizes with OpenCV."""
    results, supervision = pytest.importorskip("ultralytics.engine.results"), pytest.importorskip("supervision")
    generator = torch.Generator().manual_seed(0)
    masks = (interpolate(torch.rand((3, 1, 9, 13), generator=generator), padded, mode="bilinear")[:, 0] > 0.5).float()
    boxes = torch.tensor([[1.0, 2, 4, 5, 0.9, 1], [0, 0, 3, 3, 0.8, 0], [0, 0, 5, 2, 0.7, 2]])
    result = results.Results(np.zeros((*size, 3), np.uint8), "x.jpg", NAMES, boxes=boxes, masks=masks)
    instances = InstanceSet.from_ultralytics(result, categories=TABLEWARE)
    assert instances.labels.tolist() == [1, 0, 2] and torch.equal(instances.boxes, boxes[:, :4])
    expected = supervision.Detections.from_ultralytics(result).mask
    assert np.array_equal(instances.masks.dense().numpy(), expected)


def queries(labels: list[int]) -> Any:
    """Raw output of a model, as the image processors read it: one sure stripe of 8 columns for each label."""
    classes, masks = torch.full((1, len(labels), 6), -9.0), torch.full((1, len(labels), 32, 8 * len(labels)), -9.0)
    for k, label in enumerate(labels):
        classes[0, k, label], masks[0, k, :, 8 * k : 8 * k + 8] = 9 - k / 8, 9
    return SimpleNamespace(class_queries_logits=classes, masks_queries_logits=masks, logits=classes, pred_masks=masks)


@pytest.mark.parametrize("processor", ["Mask2FormerImageProcessor", "MaskFormerImageProcessor", "DetrImageProcessor"])
def test_panoptic_segmentation_of_transformers(processor: str) -> None:
    """Cup, table, plate, spoon, table again, plate: the second plate gets the id of the first."""
    process = getattr(pytest.importorskip("transformers"), processor)().post_process_panoptic_segmentation
    (output,) = process(queries([0, 3, 1, 2, 3, 1]), label_ids_to_fuse={3}, target_sizes=[(32, 48)])
    with pytest.raises(ValueError, match=r"id 3 has the label_ids \[1, 1\].*label_ids_to_fuse=set\(\)"):
        InstanceSet.from_transformers_panoptic(output, TABLEWARE, names=NAMES)
    (output,) = process(queries([0, 3, 1, 2, 3, 1]), label_ids_to_fuse=set(), target_sizes=[(32, 48)])
    things, stuff = InstanceSet.from_transformers_panoptic(output, TABLEWARE, names=NAMES, size=(32, 48))
    assert things.labels.tolist() == [0, 1, 2, 1] and things.boxes[:, 0].tolist() == [0, 16, 24, 40]
    assert stuff[0, ::8].tolist() == [-1, 3, -1, -1, 3, -1]


def test_eomt_of_transformers() -> None:
    """Its ids begin at 0, and stuff that comes back is fused."""
    process = pytest.importorskip("transformers").EomtImageProcessor(size={"shortest_edge": 48, "longest_edge": 48})
    raw = queries([0, 3, 1, 2, 3, 1])
    (output,) = process.post_process_panoptic_segmentation(raw, target_sizes=[(48, 48)], stuff_classes=[3])
    things, stuff = InstanceSet.from_transformers_panoptic(output, TABLEWARE, names=NAMES)
    assert things.labels.tolist() == [0, 1, 2, 1] and stuff[0, 4::8].tolist() == [-1, 3, -1, -1, 3, -1]


def test_instance_segmentation_of_transformers() -> None:
    process = pytest.importorskip("transformers").Mask2FormerImageProcessor()
    raw = queries([0, 1, 2])
    raw.masks_queries_logits[0, 1] = 9  # the plate covers all
    options = {"target_sizes": [(32, 24)], "return_binary_maps": True}
    (output,) = process.post_process_instance_segmentation(raw, **options)
    instances = InstanceSet.from_transformers(output, categories=TABLEWARE, names=NAMES)
    area = dict(zip(instances.labels.tolist(), instances.masks.area.tolist(), strict=True))
    assert area == {0: 256, 1: 768, 2: 256}
    (output,) = process.post_process_instance_segmentation(raw, threshold=1.0, **options)
    assert len(InstanceSet.from_transformers(output)) == 0
