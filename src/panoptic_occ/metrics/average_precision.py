"""COCO's average precision of the detections, before anything is fused (Lin et al. 2014; computed by pycocotools)."""

from __future__ import annotations

import io
import json
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
from panoptic_occ.structures.categories import Categories
from panoptic_occ.structures.instances import InstanceSet

KINDS: Mapping[str, Literal["bbox", "segm"]] = {"box": "bbox", "mask": "segm"}
# the first numbers of COCOeval.summarize: over IoU .5:.95, at .5 and .75, and by the area of the annotation
STATS = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large")
NEEDED = ("id", "image_id", "category_id", "bbox", "area", "iscrowd", "segmentation")


class AveragePrecision(Metric):
    """AP of boxes and masks over all images that were shown, against the annotations of a COCO instances file.

    It ranks all detections of an image, the best 100 of them as COCO does, so it needs those of low scores too.
    ``categories``: what the labels of the detections mean.  In any number of processes: the states are the detections,
    their masks run-length encoded.
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
        self.annotations = annotations
        self.category_ids = [category.id for category in categories.items[: categories.num_things]]
        for name in ("images", "numbers", "values", "counts"):
            self.add_state(name, [], dist_reduce_fx="cat")

    def update(self, image_id: int, instances: InstanceSet) -> None:
        """Adds the detections of one image, in its original frame."""
        height, width = instances.masks.size
        encoded = [_encoded(window, crop, (height, width)) for window, crop in instances.masks.to("cpu")]
        rows = [
            (image_id, label, len(counts)) for label, counts in zip(instances.labels.tolist(), encoded, strict=True)
        ]
        self._add(
            torch.tensor([(image_id, height, width)]),
            torch.tensor(rows, dtype=torch.int64).view(-1, 3),
            torch.cat([instances.scores.float()[:, None], instances.boxes.float()], dim=1).cpu(),
            torch.frombuffer(bytearray(b"".join(encoded)), dtype=torch.uint8) if encoded else torch.zeros(0).byte(),
        )

    def sync(self, *args: Any, **kwargs: Any) -> None:
        """Gathers the detections of all processes, also of one that has seen no image."""
        if not self.images:
            self._add(*(torch.zeros(size, dtype=dtype) for size, dtype in zip(EMPTY, DTYPES, strict=True)))
        super().sync(*args, **kwargs)

    def compute(self) -> dict[str, float]:
        """``AP_box``, ``AP50_box``, ... ``AP_large_mask``, as shares; NaN where nothing is annotated.

        DataError when the annotations cannot be read or lack what COCO's evaluation needs.
        """
        images, numbers, values, counts = (
            dim_zero_cat(state).cpu() for state in (self.images, self.numbers, self.values, self.counts)
        )
        sizes = {number: (height, width) for number, height, width in images.tolist()}
        boxes, masks = [], []
        parts = [part.tobytes() for part in np.split(counts.numpy(), numbers[:, 2].cumsum(0).numpy())]
        for (image_id, label, _), (score, left, top, right, bottom), part in zip(
            numbers.tolist(), values.tolist(), parts, strict=False
        ):
            found = {"image_id": image_id, "category_id": self.category_ids[label], "score": score}
            boxes.append({**found, "bbox": [left, top, right - left, bottom - top]})
            masks.append({**found, "segmentation": {"size": sizes[image_id], "counts": part}})
        truth = self._truth(sizes)
        scores: dict[str, float] = {}
        for kind, detections in (("box", boxes), ("mask", masks)):
            scores |= {f"{name}_{kind}": value for name, value in self._scores(truth, KINDS[kind], detections).items()}
        return scores

    def _add(self, *parts: Tensor) -> None:
        for state, part in zip((self.images, self.numbers, self.values, self.counts), parts, strict=True):
            state.append(part.to(self.device))

    def _truth(self, images: Mapping[int, object]) -> COCO:
        """The annotations of ``images`` alone."""
        try:
            with open(self.annotations, encoding="utf-8") as file:
                content = json.load(file)
        except (OSError, ValueError) as error:
            raise DataError(f"{self.annotations}: cannot be read ({error})") from None
        truth = COCO()
        truth.dataset = {
            "images": [image for image in content["images"] if image["id"] in images],
            "annotations": [note for note in content["annotations"] if note["image_id"] in images],
            "categories": content["categories"],
        }
        for note in truth.dataset["annotations"]:
            if missing := [key for key in NEEDED if key not in note]:
                raise DataError(
                    f"{self.annotations}: annotation {note.get('id')} of image {note['image_id']} lacks "
                    f"{', '.join(missing)}, which COCO's average precision needs; set average_precision=false"
                )
        with redirect_stdout(io.StringIO()):
            truth.createIndex()
        return truth

    def _scores(
        self, truth: COCO, kind: Literal["bbox", "segm"], detections: Sequence[dict[str, Any]]
    ) -> dict[str, float]:
        with redirect_stdout(io.StringIO()):  # it prints its progress and its results
            evaluation = COCOeval(truth, truth.loadRes(list(detections)) if detections else _none_of(truth), kind)
            evaluation.params.catIds = self.category_ids
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        found = evaluation.stats[: len(STATS)].tolist()
        return {name: value if value >= 0 else float("nan") for name, value in zip(STATS, found, strict=True)}


EMPTY = ((0, 3), (0, 3), (0, 5), (0,))
DTYPES = (torch.int64, torch.int64, torch.float32, torch.uint8)


def _encoded(window: tuple[slice, slice], crop: Tensor, size: tuple[int, int]) -> bytes:
    """The run-length encoding of a mask in an image of ``size``, in COCO's compressed form."""
    dense = np.zeros(size, dtype=np.uint8, order="F")
    dense[window] = crop.numpy()
    counts: bytes = rle_tools.encode(dense)["counts"]
    return counts


def _none_of(truth: COCO) -> COCO:
    """No detections at all, which ``loadRes`` cannot read."""
    nothing = COCO()
    nothing.dataset = {**truth.dataset, "annotations": []}
    nothing.createIndex()
    return nothing
