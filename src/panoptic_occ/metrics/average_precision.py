"""COCO's average precision of the detections, before anything is fused (Lin et al. 2014; computed by pycocotools)."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import Any

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
from panoptic_occ.structures.categories import Categories
from panoptic_occ.structures.instances import InstanceSet
from panoptic_occ.structures.segmentation import NoPolygonError, mask_rle

# the first numbers of COCOeval.summarize: over IoU .5:.95, at .5 and .75, and by the area of the annotation
STATS = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large")


class AveragePrecision(Metric):
    """AP of boxes and masks over all images that were shown, against the annotations of a COCO instances file.

    It ranks the best 100 detections of an image, as COCO does, so it needs those of low scores too.  ``categories``:
    what the labels of the detections mean.  In any number of processes.  DataError when the annotations cannot be read
    or lack what COCO's evaluation needs.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    lines: list[Tensor]  # bytes of JSON: an image, its size, and its detections in COCO's format of results

    def __init__(self, annotations: Path, categories: Categories, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.truth = read_truth(annotations)
        self.category_ids = [category.id for category in categories.items[: categories.num_things]]
        self.add_state("lines", [], dist_reduce_fx="cat")

    def update(self, image_id: int, instances: InstanceSet) -> None:
        """Adds the detections of one image, in its original frame."""
        size = instances.masks.size
        columns = instances.scores.float().tolist(), instances.labels.tolist(), instances.boxes.float().tolist()
        detections = [
            {
                "image_id": image_id,
                "category_id": self.category_ids[label],
                "score": score,
                "bbox": [left, top, right - left, bottom - top],
                "segmentation": {"size": size, "counts": _rle(window, crop, size).decode()},
            }
            for (window, crop), score, label, (left, top, right, bottom) in zip(
                instances.masks.to("cpu"), *columns, strict=True
            )
        ]
        line = bytearray(json.dumps([image_id, size, detections]).encode() + b"\n")
        self.lines.append(torch.frombuffer(line, dtype=torch.uint8).to(self.device))

    def sync(self, *args: Any, **kwargs: Any) -> None:
        """Gathers the detections of all processes, also of one that has seen no image."""
        if not self.lines:
            self.lines.append(torch.zeros(0, dtype=torch.uint8, device=self.device))
        super().sync(*args, **kwargs)

    def compute(self) -> dict[str, float]:
        """``AP_box``, ``AP50_box``, ... ``AP_large_mask``, as shares; NaN where nothing is annotated."""
        lines = dim_zero_cat(self.lines).cpu().numpy().tobytes().splitlines()
        images: list[tuple[int, tuple[int, int], list[dict[str, Any]]]] = list(map(json.loads, lines))
        truth, scores = self._truth_of(images), dict[str, float]()
        for suffix, kind, other in (("box", "bbox", "segmentation"), ("mask", "segm", "bbox")):
            detections = [{**detection} for _, _, of_one in images for detection in of_one]
            for detection in detections:
                del detection[other]  # else COCO would take the areas of the one for the other
            scores |= {f"{name}_{suffix}": value for name, value in self._scores(truth, kind, detections).items()}
        return scores

    def _truth_of(self, images: Iterable[tuple[int, tuple[int, int], object]]) -> COCO:
        """The annotations of these images alone."""
        sizes = {image_id: size for image_id, size, _ in images if image_id in self.truth}
        return _coco({
            "images": [{"id": k, "height": height, "width": width} for k, (height, width) in sizes.items()],
            "annotations": [dict(entry) for image_id in sizes for entry in self.truth[image_id]],
            "categories": [{"id": category_id} for category_id in self.category_ids],
        })  # fmt: skip

    def _scores(self, truth: COCO, kind: str, detections: list[dict[str, Any]]) -> dict[str, float]:
        with redirect_stdout(io.StringIO()):  # it prints its progress and its results
            # loadRes cannot read an empty list
            results = truth.loadRes(detections) if detections else _coco({**truth.dataset, "annotations": []})
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
    area = annotation.area
    if isinstance(area, str):
        with suppress(ValueError):
            area = float(area)
    present = {
        "area": isinstance(area, int | float),
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
        "area": area,
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
