"""COCO's average precision of the detections, before anything is fused (Lin et al. 2014; computed by pycocotools)."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pycocotools import mask as rle_tools
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_cat

from panoptic_occ.common.errors import DataError
from panoptic_occ.data.coco.json_file import Annotation, CocoJson
from panoptic_occ.data.coco.segmentation import NoPolygonError, mask_rle
from panoptic_occ.structures.categories import Categories
from panoptic_occ.structures.instances import InstanceSet

# the first numbers of COCOeval.summarize: over IoU .5:.95, at .5 and .75, and by the area of the annotation
STATS = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large")
STATES = {  # rows of: image id, height, width; image id, label, bytes of the mask; score, box; bytes of all masks
    "images": ((0, 3), torch.int64),
    "numbers": ((0, 3), torch.int64),
    "values": ((0, 5), torch.float32),
    "counts": ((0,), torch.uint8),
}


class AveragePrecision(Metric):
    """AP of boxes and masks over all images that were shown, against the annotations of a COCO instances file.

    It ranks the best 100 detections of an image, as COCO does, so it needs those of low scores too.  ``categories``:
    what the labels of the detections mean.  In any number of processes: the states are the detections, their masks
    run-length encoded.  DataError when the annotations cannot be read or lack what COCO's evaluation needs.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    images: list[Tensor]
    numbers: list[Tensor]
    values: list[Tensor]
    counts: list[Tensor]

    def __init__(self, annotations: Path, categories: Categories, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.truth = read_truth(annotations)
        self.category_ids = [category.id for category in categories.items[: categories.num_things]]
        for name in STATES:
            self.add_state(name, [], dist_reduce_fx="cat")

    def update(self, image_id: int, instances: InstanceSet) -> None:
        """Adds the detections of one image, in its original frame."""
        height, width = instances.masks.size
        rles = [_rle(window, crop, (height, width)) for window, crop in instances.masks.to("cpu")]
        rows = [(image_id, label, len(rle)) for label, rle in zip(instances.labels.tolist(), rles, strict=True)]
        self._add(
            torch.tensor([(image_id, height, width)]),
            torch.tensor(rows, dtype=torch.int64).view(-1, 3),
            torch.cat([instances.scores.float()[:, None], instances.boxes.float()], dim=1).cpu(),
            torch.frombuffer(bytearray(b"".join(rles)), dtype=torch.uint8) if rles else torch.zeros(0).byte(),
        )

    def sync(self, *args: Any, **kwargs: Any) -> None:
        """Gathers the detections of all processes, also of one that has seen no image."""
        if not self.images:
            self._add(*(torch.zeros(size, dtype=dtype) for size, dtype in STATES.values()))
        super().sync(*args, **kwargs)

    def compute(self) -> dict[str, float]:
        """``AP_box``, ``AP50_box``, ... ``AP_large_mask``, as shares; NaN where nothing is annotated."""
        images, numbers, values, counts = (dim_zero_cat(getattr(self, name)).cpu() for name in STATES)
        sizes = {image_id: (height, width) for image_id, height, width in images.tolist()}
        boxes, masks = [], []
        rles = [part.tobytes() for part in np.split(counts.numpy(), numbers[:, 2].cumsum(0).numpy())]
        rows = zip(numbers.tolist(), values.tolist(), rles, strict=False)  # nothing follows the last cut
        for (image_id, label, _), (score, left, top, right, bottom), rle in rows:
            detection = {"image_id": image_id, "category_id": self.category_ids[label], "score": score}
            boxes.append({**detection, "bbox": [left, top, right - left, bottom - top]})
            masks.append({**detection, "segmentation": {"size": sizes[image_id], "counts": rle}})
        truth = self._truth_of(sizes)
        of_boxes, of_masks = self._scores(truth, "bbox", boxes), self._scores(truth, "segm", masks)
        return {f"{name}_box": of_boxes[name] for name in STATS} | {f"{name}_mask": of_masks[name] for name in STATS}

    def _add(self, *parts: Tensor) -> None:
        for name, part in zip(STATES, parts, strict=True):
            getattr(self, name).append(part.to(self.device))

    def _truth_of(self, sizes: Mapping[int, tuple[int, int]]) -> COCO:
        """The annotations of the images of ``sizes`` alone."""
        images = [image_id for image_id in self.truth if image_id in sizes]
        return _coco({
            "images": [dict(zip(("id", "height", "width"), (k, *sizes[k]), strict=True)) for k in images],
            "annotations": [dict(entry) for image_id in images for entry in self.truth[image_id]],
            "categories": [{"id": category_id} for category_id in self.category_ids],
        })  # fmt: skip

    def _scores(
        self, truth: COCO, kind: Literal["bbox", "segm"], detections: Sequence[dict[str, Any]]
    ) -> dict[str, float]:
        with redirect_stdout(io.StringIO()):  # it prints its progress and its results
            # loadRes cannot read an empty list
            results = truth.loadRes(list(detections)) if detections else _coco({**truth.dataset, "annotations": []})
            evaluation = COCOeval(truth, results, kind)
            evaluation.params.catIds = self.category_ids
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        stats = evaluation.stats[: len(STATS)].tolist()
        return {name: value if value >= 0 else float("nan") for name, value in zip(STATS, stats, strict=True)}


def read_truth(file: Path) -> dict[int, list[dict[str, Any]]]:
    """The annotations of an instances JSON by image, crowds included, as pycocotools takes them."""
    if not file.exists():
        raise DataError(f"{file}: the file does not exist; average precision needs it: set average_precision=false")
    content = CocoJson(file, "instances", "images", "annotations")
    sizes = {image_id: content.size(entry, f"image {image_id}") for image_id, entry in content.images().items()}
    truth: dict[int, list[dict[str, Any]]] = {image_id: [] for image_id in sizes}
    for image_id, annotation in content.instances():
        if image_id in sizes:
            what = f"{file}: annotation {annotation.given_id} of image {image_id}"
            truth[image_id].append({"image_id": image_id, **_truth_entry(annotation, sizes[image_id], what)})
    return truth


def _truth_entry(annotation: Annotation, size: tuple[int, int], what: str) -> dict[str, Any]:
    """An annotation; a mask of no pixel where the segmentation encloses nothing."""
    is_number = isinstance(annotation.area, int | float)
    present = {
        "area": is_number,
        "bbox": len(annotation.bbox) == 4,
        "segmentation": annotation.segmentation is not None,
    }
    if missing := [key for key, good in present.items() if not good]:
        raise DataError(
            f"{what} lacks {', '.join(missing)}, which COCO's average precision needs; set average_precision=false"
        )
    try:
        rle = mask_rle(annotation.segmentation, size, annotation.bbox)
    except NoPolygonError:
        rle = None
    except (ValueError, TypeError, OverflowError) as error:
        raise DataError(f"{what}: the segmentation is malformed ({error}); correct it") from None
    return {
        "id": annotation.id,
        "category_id": annotation.category_id,
        "iscrowd": int(annotation.iscrowd),
        "area": annotation.area,
        "bbox": list(annotation.bbox),
        "segmentation": rle or rle_tools.encode(np.zeros(size, dtype=np.uint8, order="F")),
    }


def _rle(window: tuple[slice, slice], crop: Tensor, size: tuple[int, int]) -> bytes:
    """The run-length encoding of a mask in an image of ``size``, in COCO's compressed form."""
    dense = np.zeros(size, dtype=np.uint8, order="F")
    dense[window] = crop.numpy()
    rle: bytes = rle_tools.encode(dense)["counts"]
    return rle


def _coco(content: dict[str, Any]) -> COCO:
    coco = COCO()
    coco.dataset = content
    with redirect_stdout(io.StringIO()):  # it prints its progress
        coco.createIndex()
    return coco
