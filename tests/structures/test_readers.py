"""Detections of other packages, as hand-made objects with the documented fields; the real ones are in the next file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from data.conftest import CAT, CATEGORIES, DOG, TinyCoco, rle
from helpers.samples import assert_same, make_sample
from panoptic_occ.common.errors import DataError
from panoptic_occ.data.coco.dataset import CocoPanoptic
from panoptic_occ.data.coco.layout import Layout
from panoptic_occ.structures.categories import Categories
from panoptic_occ.structures.instances import InstanceSet
from panoptic_occ.structures.readers.labels import ClassTable
from panoptic_occ.structures.readers.ultralytics import unletterboxed

ANIMALS = Categories.from_json(CATEGORIES)  # labels: cat 0, dog 1, sky 2
TURNED = [{"id": 1, "name": "cat", "isthing": 1}, {"id": 2, "name": "dog", "isthing": 1}]  # other ids, the same labels
MASKS = np.zeros((3, 6, 8), dtype=bool)
MASKS[0, 1:4, 2:6], MASKS[1, 2:6, 4:8], MASKS[2, 0, 0] = True, True, True
BOXES = np.array([[2.0, 1, 6, 4], [4, 2, 8, 6], [0, 0, 1, 1]])
SCORES = np.array([0.5, 0.9, 0.5])
NAMES = ["dog", "cat", "dog"]
RANKED = InstanceSet.from_masks(MASKS[[1, 0, 2]], SCORES[[1, 0, 2]], [0, 1, 1], boxes=BOXES[[1, 0, 2]])


def tensors(*arrays: Any) -> list[torch.Tensor]:
    return [torch.as_tensor(array) for array in arrays]


def torchvision_output(numbers: Any = (DOG, CAT, DOG), **other: Any) -> dict[str, Any]:
    """As of a model that was not told ``no_grad``."""
    masks, boxes, scores, labels = tensors(np.where(MASKS, 0.5, 0.49)[:, None], BOXES, SCORES, numbers)
    soft = {"masks": masks.requires_grad_(), "boxes": boxes.float().requires_grad_(), "scores": scores.requires_grad_()}
    return {**soft, "labels": labels, **other}


def detectron2_output(numbers: Any = (1, 0, 1), **other: Any) -> dict[str, Any]:
    masks, boxes, scores, classes = tensors(MASKS, BOXES, SCORES, numbers)
    fields = {"image_size": (6, 8), "pred_masks": masks, "scores": scores, "pred_classes": classes}
    return {"instances": SimpleNamespace(**fields | {"pred_boxes": SimpleNamespace(tensor=boxes)} | other)}


def supervision_detections(**other: Any) -> Any:
    fields = {"xyxy": BOXES, "mask": MASKS, "confidence": SCORES, "class_id": np.array([7, 8, 7])}
    return SimpleNamespace(**fields | {"data": {"class_name": np.array(NAMES)}} | other)


def ultralytics_result(**other: Any) -> Any:
    masks, boxes, scores, classes = tensors(MASKS.astype(np.float32), BOXES, SCORES, [7.0, 8.0, 7.0])
    boxed = SimpleNamespace(xyxy=boxes, conf=scores, cls=classes)
    fields = {"orig_shape": (6, 8), "names": {7: "dog", 8: "cat"}, "masks": SimpleNamespace(data=masks)}
    return SimpleNamespace(**fields | {"boxes": boxed} | other)


def transformers_output(segmentation: Any = None, **other: Any) -> dict[str, Any]:
    """Binary maps; in the order of the ids, not of the list."""
    infos = [{"id": k, "label_id": (1, 0, 1)[k], "score": SCORES[k]} | other for k in (1, 0, 2)]
    maps = torch.from_numpy(MASKS).float() if segmentation is None else segmentation
    return {"segmentation": maps, "segments_info": infos}


def coco_results(**other: Any) -> list[dict[str, Any]]:
    numbers = {"dog": DOG, "cat": CAT}
    rows = zip(MASKS, BOXES.tolist(), SCORES.tolist(), NAMES, strict=True)
    return [
        {"image_id": 5, "category_id": numbers[name], "score": score, "segmentation": rle(mask)}
        | {"bbox": [x, y, right - x, bottom - y]}
        | other
        for mask, (x, y, right, bottom), score, name in rows
    ]


def of_coco(results: Any, images: Any = None, **other: Any) -> InstanceSet:
    return InstanceSet.from_coco_results(results, images or {5: (6, 8)}, categories=ANIMALS, **other)[5]


SOURCES: dict[str, Callable[[], InstanceSet]] = {
    "masks": lambda: InstanceSet.from_masks(list(MASKS), SCORES, NAMES, boxes=BOXES, categories=ANIMALS),
    "COCO": lambda: of_coco(coco_results()),
    "COCO, numbers of numpy": lambda: of_coco(
        [row | {"image_id": np.int64(5), "score": np.float32(row["score"])} for row in coco_results()]
    ),
    "COCO, names": lambda: InstanceSet.from_coco_results(
        coco_results(), {5: (6, 8)}, categories=Categories.from_json(TURNED), names={CAT: "cat", DOG: "dog"}
    )[5],
    "torchvision": lambda: InstanceSet.from_torchvision(torchvision_output(), categories=ANIMALS),
    "torchvision, names": lambda: InstanceSet.from_torchvision(
        torchvision_output((1, 2, 1)), categories=ANIMALS, names=["__background__", "dog", "cat"]
    ),
    "detectron2": lambda: InstanceSet.from_detectron2(detectron2_output(), categories=ANIMALS),
    "detectron2, names": lambda: InstanceSet.from_detectron2(
        detectron2_output((0, 1, 0))["instances"], categories=ANIMALS, names=["Dog", " cat"]
    ),
    "supervision": lambda: InstanceSet.from_supervision(supervision_detections(), categories=ANIMALS),
    "supervision, numbers": lambda: InstanceSet.from_supervision(
        supervision_detections(data={}), categories=ANIMALS, names={7: "dog", 8: "cat"}
    ),
    "ultralytics": lambda: InstanceSet.from_ultralytics(ultralytics_result(), categories=ANIMALS),
    "transformers": lambda: InstanceSet.from_transformers(transformers_output(), categories=ANIMALS),
}


@pytest.mark.parametrize("source", SOURCES)
def test_one_result_from_every_source(source: str) -> None:
    """Three detections in falling order of their scores, equal ones as they came."""
    instances = SOURCES[source]()
    assert not instances.scores.requires_grad and not instances.boxes.requires_grad
    assert np.array_equal(instances.masks.dense().numpy(), MASKS[[1, 0, 2]])
    assert_same(instances, RANKED)


def test_annotations_as_results_and_back(tmp_path: Path) -> None:
    """Overlapping masks of any form, twice: as results in a file, and drawn from the file of annotations itself."""
    target = make_sample().annotations
    results = [
        {"image_id": 3, "category_id": int(label), "segmentation": rle(mask.numpy()), "score": 1 - k / 8}
        for k, (mask, label) in enumerate(zip(target.masks.dense(), target.labels, strict=True))
    ]
    scores = [result["score"] for result in results]
    (tmp_path / "results.json").write_text(json.dumps(results))
    images = {"images": [{"id": "3", "height": 37, "width": 53}, {"id": 4, "height": 2, "width": 2}]}
    (tmp_path / "images.json").write_text(json.dumps(images))
    every = InstanceSet.from_coco_results(tmp_path / "results.json", str(tmp_path / "images.json"), missing="empty")
    expected = InstanceSet(target.masks, target.boxes, torch.tensor(scores), target.labels)
    assert list(every) == [3, 4] and len(every[4]) == 0 and every[4].masks.size == (2, 2)
    assert_same(every[3], expected)
    every = InstanceSet.from_coco_results({**images, "annotations": results}, scores=0.5, missing="empty")
    assert_same(every[3].masks, target.masks)
    assert every[3].scores.tolist() == [0.5] * 5


def test_an_instances_json_without_its_crowds(tmp_path: Path) -> None:
    """A polygon and an RLE; image 9 has no instance, the crowds are none."""
    TinyCoco(tmp_path).write()
    (file,) = tmp_path.rglob("instances_*.json")
    every = InstanceSet.from_coco_results(file, categories=ANIMALS, scores=1.0, missing="empty")
    assert {number: len(instances) for number, instances in every.items()} == {5: 2, 9: 0, 7: 1}
    assert every[5].masks.area.tolist() == [64, 32] and every[5].labels.tolist() == [0, 1]
    with pytest.raises(DataError, match=r"instances_.*entry 0 of image 5: has no score.*scores=1\.0"):
        InstanceSet.from_coco_results(file, categories=ANIMALS, missing="empty")


def test_annotations_of_real_images(coco_mini: Path) -> None:
    """As the reader of the data set sees them."""
    layout = Layout.of(coco_mini, "val2017")
    samples = CocoPanoptic(layout)
    every = InstanceSet.from_coco_results(
        layout.instances_json, categories=samples.categories, scores=1.0, missing="empty"
    )
    assert sum(map(len, every.values())) > 100
    for k in range(len(samples)):
        target = samples[k].annotations
        assert_same(every[samples[k].image_id].masks, target.masks)
        assert_same(every[samples[k].image_id].labels, target.labels)


def test_names_differ_in_spelling_and_foreign_classes_are_listed() -> None:
    table = ClassTable(Categories.from_json([{"id": 4, "name": "traffic light", "isthing": 1}, *CATEGORIES]))
    assert table.labels(["Traffic_Light", "dog", "traffic-light", "cat"], "x") == [0, 2, 0, 1]
    with pytest.raises(DataError, match=r"^x: 'sky' is stuff; 'cot' is not among .*'drop'.*allowed: cat, dog, traf"):
        table.labels(["cat", "sky", "cot", "cot"], "x")
    named = ClassTable(ANIMALS, names={3: "cot", 4: "dog"})
    with pytest.raises(DataError, match=r"class 3 \('cot'\) is not among .*class 5 has no name.*did you mean 'cat'"):
        named.labels([3, 4, 5], "x")
    numbers = ClassTable(ANIMALS)
    with pytest.raises(DataError, match=r"label 2 is stuff; label -1 is not among"):
        numbers.labels([0, 2, -1], "x")
    assert numbers.labels([CAT, DOG], "x", by_id=True) == [0, 1]
    assert ClassTable(ANIMALS, unknown="drop").labels(["cat", "sky", "cot"], "x") == [0, -1, -1]
    with pytest.raises(DataError, match="'cat' is no contiguous label; give categories="):
        ClassTable().labels(["cat", 3], "x")


def test_names_that_differ_in_case_alone_are_kept_apart() -> None:
    entries = [{"id": k, "name": name, "isthing": 1} for k, name in enumerate(["Cat", "CAT"])]
    table = ClassTable(Categories.from_json(entries))
    assert table.labels(["CAT", "Cat"], "x") == [1, 0]
    with pytest.raises(DataError, match="'cat' is not among"):
        table.labels(["cat"], "x")


def test_detections_of_unknown_classes_are_left_out() -> None:
    kept = InstanceSet.from_masks(MASKS, SCORES, ["dog", "cow", "dog"], categories=ANIMALS, unknown="drop")
    assert kept.labels.tolist() == [1, 1] and kept.masks.area.tolist() == [12, 1]


def test_nothing_detected() -> None:
    nothing = supervision_detections(xyxy=BOXES[:0], mask=None, confidence=None, class_id=None, data={})
    assert InstanceSet.from_supervision(nothing, size=(6, 8)).masks.size == (6, 8)
    result = ultralytics_result(masks=None, boxes=None)
    assert InstanceSet.from_ultralytics(result).masks.size == (6, 8)
    no_segment = {"segmentation": torch.zeros(6, 8) - 1, "segments_info": []}
    assert len(InstanceSet.from_transformers(no_segment)) == 0
    with pytest.raises(DataError, match=r"give size=\(height, width\)"):
        InstanceSet.from_transformers({**no_segment, "segmentation": None})


def test_a_map_of_ids_from_0_and_from_1() -> None:
    """EoMT's ids begin at 0 with -1 as background, others' at 1 with 0."""
    ids = torch.tensor([[0, 0, 1], [1, -1, -1]])
    for first in (0, 1):
        infos = [{"id": k + first, "label_id": k, "score": 0.9 - 0.1 * k} for k in range(2)]
        instances = InstanceSet.from_transformers({"segmentation": (ids + first).float(), "segments_info": infos})
        assert instances.masks.dense().int().tolist() == [[[1, 1, 0], [0, 0, 0]], [[0, 0, 1], [1, 0, 0]]]


def panoptic_output(numbers: list[int], labels: list[int], fused: list[bool]) -> dict[str, Any]:
    """One pixel for each segment, and a free one."""
    rows = zip(numbers, labels, fused, strict=True)
    infos = [{"id": n, "label_id": label, "was_fused": flag, "score": 0.5} for n, label, flag in rows]
    return {"segmentation": torch.tensor([[*numbers, 0]]), "segments_info": infos}


def test_a_panoptic_map_as_things_and_stuff() -> None:
    """The sky is listed twice, as it was fused."""
    output = panoptic_output([1, 2, 3, 2], [0, 2, 0, 2], [False, True, False, True])
    things, stuff = InstanceSet.from_transformers_panoptic(output, ANIMALS)
    assert stuff.tolist() == [[-1, 2, -1, 2, -1]] and things.labels.tolist() == [0, 0]
    assert things.masks.boxes[:, 0].tolist() == [0, 2]


@pytest.mark.parametrize(
    ("labels", "fused"),
    [([0, 2, 1, 2, 1], [False, True, False, True, False]), ([0, 2, 1, 2, 0], [False, True, False, True, False])],
    ids=["two of one class", "two classes"],
)
def test_things_that_share_an_id_are_noticed(labels: list[int], fused: list[bool]) -> None:
    """As transformers numbers what comes after stuff that comes back."""
    output = panoptic_output([1, 2, 3, 2, 3], labels, fused)
    with pytest.raises(DataError, match=rf"id 3 has the label_ids \[1, {labels[-1]}\]; .*23461.*label_ids_to_fuse=set"):
        InstanceSet.from_transformers_panoptic(output, ANIMALS)


def test_letterboxed_masks_lose_their_padding() -> None:
    """An image of 4 x 8 px in an input of 8 x 8: two rows of padding above and below; then one twice as large."""
    masks = torch.zeros(1, 8, 8)
    masks[0, 2:4, :4], masks[0, 0] = 1, 1
    expected = torch.zeros(4, 8, dtype=torch.bool)
    expected[:2, :4] = True
    assert torch.equal(unletterboxed(masks, (4, 8))[0], expected)
    doubled = expected.repeat_interleave(2, dim=0).repeat_interleave(2, dim=1)
    assert torch.equal(unletterboxed(masks, (8, 16))[0], doubled)


WRONG: dict[str, tuple[Callable[[], object], str]] = {
    "size": (
        lambda: InstanceSet.from_torchvision(torchvision_output(), size=(8, 6)),
        r"torchvision's output: the masks are of \(height, width\) \(6, 8\), the image is \(8, 6\); .*swapped",
    ),
    "size of detectron2": (
        lambda: InstanceSet.from_detectron2(detectron2_output(image_size=(12, 16))),
        r"the image is \(12, 16\); masks of the same pixels",
    ),
    "size of binary maps": (
        lambda: InstanceSet.from_transformers(transformers_output(), size=(384, 384)),
        r"transformers' segmentation: the masks .* the image is \(384, 384\)",
    ),
    "list of sizes": (
        lambda: InstanceSet.from_masks([MASKS[0], MASKS[1, 1:]], 1.0),
        r"masks: a list of \(5, 8\), \(6, 8\) is no list of masks",
    ),
    "list of dictionaries": (lambda: InstanceSet.from_masks([{"segmentation": 1}], 1.0), "a list of dict is no list"),
    "soft": (lambda: InstanceSet.from_masks(MASKS * 0.5, 1.0), r"masks: .* are soft .*threshold=0\.5"),
    "no scores": (
        lambda: InstanceSet.from_supervision(supervision_detections(confidence=None)),
        r"supervision's detections: there are no scores; scores=1\.0",
    ),
    "no scores of segments": (
        lambda: InstanceSet.from_transformers(transformers_output(score=None)),
        "segmentation: there are no scores",
    ),
    "per cent": (lambda: InstanceSet.from_masks(MASKS, [0.5, 90, 0.1]), r"detection 1 has the score 90; .*per cent"),
    "NaN": (lambda: InstanceSet.from_masks(MASKS, float("nan")), "detection 0 has the score nan"),
    "lengths": (lambda: InstanceSet.from_masks(MASKS, [0.5, 0.5]), "3 masks have 2 scores"),
    "boxes alone": (
        lambda: InstanceSet.from_supervision(supervision_detections(mask=None)),
        "there are 3 boxes and no mask",
    ),
    "boxes of ultralytics alone": (
        lambda: InstanceSet.from_ultralytics(ultralytics_result(masks=None)),
        "3 boxes and no masks; a '-seg' model",
    ),
    "a batch": (lambda: InstanceSet.from_ultralytics([ultralytics_result()]), r"list of 1 images.*\[0\]"),
    "no output": (lambda: InstanceSet.from_torchvision({"boxes": 1}), r"has no 'masks' \(found: \['boxes'\]\)"),
    "no instances": (lambda: InstanceSet.from_detectron2(SimpleNamespace()), "has no 'image_size'"),
    "run lengths": (
        lambda: InstanceSet.from_transformers(transformers_output([[1, 2]])),
        "return_coco_annotation=True.*return_binary_maps",
    ),
    "map of another image": (
        lambda: InstanceSet.from_transformers(transformers_output(torch.tensor([[0, 1, 7]]))),
        r"holds the ids \[7\], which segments_info does not list",
    ),
    "maps without their ids": (
        lambda: InstanceSet.from_transformers(transformers_output(torch.zeros(2, 6, 8))),
        r"2 binary maps need the ids 0 \.\. 1, segments_info has \[1, 0, 2\]",
    ),
    "no sizes": (lambda: InstanceSet.from_coco_results(coco_results()), "give images="),
    "no list": (lambda: of_coco("nothing.json"), "nothing.json: the file does not exist"),
    "a number": (lambda: of_coco({"images": []}), r"results: has no 'annotations'"),
    "unlisted images": (
        lambda: of_coco(coco_results(), {6: (6, 8), 7: (6, 8)}),
        r"results of 1 images that are not listed \(5\); the list has 2 \(6, 7\)",
    ),
    "images without results": (
        lambda: of_coco(coco_results(), {5: (6, 8), 7: (6, 8)}),
        r"no result for 1 of 2 images \(7\); missing='empty'",
    ),
    "category": (lambda: of_coco(coco_results(category_id=44)), r"results: id 44 is not among .*allowed: cat, dog"),
    "score": (lambda: of_coco(coco_results(score=90)), r"entry 0 of image 5: has the score 90, .*no probability"),
    "no mask": (
        lambda: of_coco([{"image_id": 5, "category_id": CAT, "score": 1}]),
        "entry 0 of image 5: has no 'segmentation'",
    ),
    "RLE of another size": (lambda: of_coco(coco_results(), {5: (8, 6)}), r"entry 0 of image 5: .*swapped"),
    "box": (lambda: of_coco(coco_results(bbox=[1, 2])), r"the bbox is \[1, 2\]; x, y, width, height"),
    "rule": (lambda: of_coco(coco_results(), missing="ignore"), "missing='ignore' is unknown"),
}


@pytest.mark.parametrize("fault", WRONG)
def test_what_is_wrong_is_said_once(fault: str) -> None:
    read, words = WRONG[fault]
    with pytest.raises(ValueError, match=words):
        read()
