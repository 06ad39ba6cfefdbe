"""COCO's average precision: numbers by hand, and the same from parts of a split."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools.mask import encode
from torch import Tensor

from panoptic_occ.common.errors import DataError
from panoptic_occ.metrics.average_precision import AveragePrecision
from panoptic_occ.structures.instances import InstanceSet
from panoptic_occ.structures.masks import MaskCrops
from panoptic_occ.testing import toy_categories

CATEGORIES = toy_categories(things=2)
SIZE = (100, 120)
Box = tuple[int, int, int, int]  # left, top, right, bottom
Boxes = Mapping[int, Sequence[Box]]  # by image
ROW: tuple[Box, ...] = ((0, 0, 20, 40), (30, 0, 50, 40), (60, 0, 80, 40))


def filled(boxes: Sequence[Box]) -> Tensor:
    masks = torch.zeros(len(boxes), *SIZE, dtype=torch.bool)
    for mask, (left, top, right, bottom) in zip(masks, boxes, strict=True):
        mask[top:bottom, left:right] = True
    return masks


def annotated(folder: Path, boxes: Boxes, crowd: tuple[Box, ...] = ()) -> Path:
    """A file of COCO's instances: by image, boxes that are filled."""
    notes: list[dict[str, Any]] = []
    for image_id, of_image in boxes.items():
        for box, mask in zip((*of_image, *crowd), filled((*of_image, *crowd)).byte().numpy(), strict=True):
            notes.append({
                "id": len(notes) + 1, "image_id": image_id, "category_id": CATEGORIES.items[0].id,
                "bbox": [*box[:2], box[2] - box[0], box[3] - box[1]], "area": int(mask.sum()),
                "iscrowd": int(box in crowd),
                "segmentation": {"size": SIZE, "counts": encode(np.asfortranarray(mask))["counts"].decode()},
            })  # fmt: skip
    things = [{"id": c.id, "name": c.name} for c in CATEGORIES.items if c.isthing]
    images = [{"id": image_id, "height": SIZE[0], "width": SIZE[1]} for image_id in boxes]
    path = folder / "instances.json"
    path.write_text(json.dumps({"images": images, "annotations": notes, "categories": things}))
    return path


def detections(boxes: Sequence[Box], scores: Sequence[float], label: int = 0) -> InstanceSet:
    corners, n = torch.tensor(boxes, dtype=torch.float32).view(-1, 4), len(boxes)
    masks = MaskCrops.from_dense(filled(boxes))
    return InstanceSet(masks, corners, torch.tensor(scores[:n]), torch.full((n,), label))


def measured(path: Path, detected: dict[int, InstanceSet]) -> dict[str, float]:
    metric = AveragePrecision(path, CATEGORIES)
    for image_id, instances in detected.items():
        metric.update(image_id, instances)
    scores: dict[str, float] = metric.compute()
    return scores


def test_exact_detections_are_perfect_and_what_is_not_annotated_is_unknown(tmp_path: Path) -> None:
    scores = measured(annotated(tmp_path, {7: list(ROW)}), {7: detections(list(ROW), [0.9, 0.2, 0.5])})
    assert len(scores) == 12
    for name, value in scores.items():  # masks of 800 px, less than 32 * 32
        assert math.isnan(value) if "medium" in name or "large" in name else value == pytest.approx(1), name


NONE = detections([], [])
HIT = 51 / 101  # of two, as precision is read at 101 recalls


@pytest.mark.parametrize(
    ("annotations", "detected", "expected"),
    [
        # a false positive between two hits: precision 1 up to recall .5, two thirds from there on
        ({1: ROW[:2]}, {1: detections([ROW[0], ROW[2], ROW[1]], [0.9, 0.8, 0.7])}, HIT + 50 * 2 / 3 / 101),
        # only the hundred best of an image count
        ({1: [ROW[0]], 2: [ROW[0]]}, {1: detections([ROW[1]] * 100 + [ROW[0]], [0.9] * 100 + [0.1]), 2: NONE}, 0),
        ({1: [ROW[0]], 2: [ROW[0]]}, {1: detections([ROW[0]], [0.1]), 2: NONE}, HIT),
        # images without detections count, and others of the file do not
        ({1: [ROW[0]], 2: [ROW[1]], 3: [ROW[2]]}, {1: detections([ROW[0]], [0.9]), 3: NONE}, HIT),
        ({1: [ROW[0]], 2: [ROW[1]]}, {2: NONE}, 0),
        # one of another class is none of this class, whatever its mask
        ({1: [ROW[0]]}, {1: detections([ROW[0]], [0.9], label=1)}, 0),
    ],
)
def test_by_hand(tmp_path: Path, annotations: Boxes, detected: dict[int, InstanceSet], expected: float) -> None:
    scores = measured(annotated(tmp_path, annotations), detected)
    assert scores["AP_box"] == scores["AP_mask"] == pytest.approx(expected)


def test_detections_in_a_crowd_are_not_counted(tmp_path: Path) -> None:
    path = annotated(tmp_path, {1: [ROW[0]]}, crowd=((50, 0, 110, 90),))
    assert measured(path, {1: detections([ROW[2], ROW[0]], [0.9, 0.3])})["AP_mask"] == pytest.approx(1)


def test_masks_and_boxes_are_ranked_by_their_own_overlap(tmp_path: Path) -> None:
    """A box of IoU .62 hits at .5, .55 and .6; its mask is exact."""
    wide = replace(detections([ROW[0]], [0.9]), boxes=torch.tensor([[0.0, 0.0, 20 / 0.62, 40.0]]))
    scores = measured(annotated(tmp_path, {1: [ROW[0]]}), {1: wide})
    names = ("AP_box", "AP_mask", "AP50_box", "AP75_box")
    assert [scores[name] for name in names] == pytest.approx([0.3, 1, 1, 0])


def test_parts_give_the_whole_also_with_one_that_saw_nothing(tmp_path: Path) -> None:
    path = annotated(tmp_path, {1: [ROW[0]], 2: [ROW[0], ROW[1]]})
    detected = {1: detections([ROW[0], ROW[2]], [0.9, 0.95]), 2: detections([ROW[1]], [0.8])}
    whole = measured(path, detected)
    one, other, idle = (AveragePrecision(path, CATEGORIES) for _ in range(3))
    one.update(1, detected[1])
    other.update(2, detected[2])
    sent: list[Tensor] = []

    def gather(tensor: Tensor, group: object) -> list[Tensor]:
        sent.append(tensor)
        return [tensor]

    idle.sync(dist_sync_fn=gather, distributed_available=lambda: True)
    assert [(tensor.dtype, tensor.ndim) for tensor in sent] == [(one.lines[0].dtype, one.lines[0].ndim)]
    merged = AveragePrecision(path, CATEGORIES)
    for part in (one, other):
        merged.merge_state(part.metric_state)
    merged._update_count = 2
    assert merged.compute() == pytest.approx(whole, nan_ok=True)
    assert whole["AP_mask"] == pytest.approx((34 * 2 / 3 + 33 * 2 / 3) / 101)


def test_annotations_that_cannot_be_used_are_named_before_any_work(tmp_path: Path) -> None:
    path = annotated(tmp_path, {1: [ROW[0]]})
    whole = path.read_text()
    for text, message in (
        (whole.replace('"area"', '"size"'), ": annotation 1 of image 1 lacks area"),
        (re.sub(r'"area": (\d+)', '"area": "large"', whole), ": annotation 1 of image 1 lacks area"),
        (whole.replace('"bbox": [0, 0, 20, 40]', '"bbox": []'), ": annotation 1 of image 1 lacks bbox"),
        (whole.replace('"counts": "', '"counts": "~'), ": annotation 1 of image 1: the segmentation is malformed"),
        ("{", ": not valid"),
        (None, ": the file does not exist; .* set average_precision=false"),
    ):
        path.unlink() if text is None else path.write_text(text)
        with pytest.raises(DataError, match=rf"instances\.json{message}"):
            AveragePrecision(path, CATEGORIES)
