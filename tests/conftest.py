"""Fixtures that several rooms share."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

REPOSITORY = Path(__file__).resolve().parents[1]


# Where a single test takes long: begun first, none of them is left over when the others are done.
LONG = ("tables/test_running", "test_docs", "end_to_end/", "cluster/", "test_validation", "evaluation/")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of the files in ``LONG`` come first, the others keep their order."""
    items.sort(key=lambda item: not any(part in item.nodeid for part in LONG))


@pytest.fixture(scope="session")
def coco_mini() -> Path:
    """Root of a few real COCO images in the official layout; skips where it is absent."""
    root = Path(os.environ.get("PANOPTIC_OCC_COCO_MINI", REPOSITORY.parent / "shared" / "data" / "coco_mini"))
    if not (root / "annotations").is_dir():
        pytest.skip(f"no coco_mini at {root}; PANOPTIC_OCC_COCO_MINI names it")
    return root


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the scenes of all tests are painted, by the first that needs them."""
    return tmp_path_factory.getbasetemp() / "scenes"


class Tally:
    """Counts of one category; the IoU sum is exact."""

    def __init__(self) -> None:
        self.tp = self.fp = self.fn = 0
        self.iou = Fraction(0)

    @property
    def pq(self) -> float:
        return float(self.iou / (self.tp + Fraction(self.fp + self.fn, 2)))


Info = Sequence[Mapping[str, Any]]


def slow_panoptic_quality(
    gt_ids: np.ndarray, gt_info: Info, predicted_ids: np.ndarray, predicted_info: Info
) -> dict[int, Tally]:
    """The rules of the COCO evaluation for one image, segment by segment, with masks and exact fractions."""
    tallies: dict[int, Tally] = defaultdict(Tally)
    mask = {entry["id"]: predicted_ids == entry["id"] for entry in predicted_info}
    void = gt_ids == 0
    hit = set()
    for g in gt_info:
        gt_mask, matched = gt_ids == g["id"], False
        for p in predicted_info:
            inter = int((gt_mask & mask[p["id"]]).sum())
            if g["iscrowd"] or inter == 0 or g["category_id"] != p["category_id"]:
                continue
            union = int(mask[p["id"]].sum()) + g["area"] - inter - int((mask[p["id"]] & void).sum())
            iou = Fraction(inter, union)
            if iou > Fraction(1, 2):
                tallies[g["category_id"]].tp += 1
                tallies[g["category_id"]].iou += iou
                hit.add(p["id"])
                matched = True
        if not matched and not g["iscrowd"]:
            tallies[g["category_id"]].fn += 1
    for p in predicted_info:
        if p["id"] in hit:
            continue
        forgiven = int((mask[p["id"]] & void).sum())
        crowds = [g["id"] for g in gt_info if g["iscrowd"] and g["category_id"] == p["category_id"]]
        if crowds:
            forgiven += int((mask[p["id"]] & (gt_ids == crowds[-1])).sum())
        if not Fraction(forgiven, int(mask[p["id"]].sum())) > Fraction(1, 2):
            tallies[p["category_id"]].fp += 1
    return tallies


@pytest.fixture(scope="session")
def slow_pq() -> Callable[[np.ndarray, Info, np.ndarray, Info], dict[int, Tally]]:
    """A brute-force panoptic quality of one image: category -> tally."""
    return slow_panoptic_quality
